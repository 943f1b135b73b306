"""Fitting a law to one table of points, with intervals and tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from scalinglaws.bootstrap import pair_intervals
from scalinglaws.diagnostics import residual_tests
from scalinglaws.errors import AnalysisError
from scalinglaws.fitted import Diagnostics, Fit, tangents
from scalinglaws.huber import DELTA, minimise_from
from scalinglaws.laws import Floats, Law, Points
from scalinglaws.minimise import Minimum, bounds_hit, minimise, starts
from scalinglaws.problem import Problem
from scalinglaws.profile import profile_intervals

Objective = Literal["squares", "huber"]
#: Starts whose objective is this close, relatively, reached the same optimum.
_SAME = 1e-6


def fit_law(
    law: Law,
    x: Points | Floats,
    losses: Floats,
    weights: Floats | None = None,
    objective: Objective = "squares",
    delta: float = DELTA,
    intervals: bool = True,
    begin: Floats | None = None,
) -> Fit:
    """Fit ``law`` to losses [n] (nats a token) at ``x``.

    weights [n] multiply each point's part of the objective. begin [S, p]: log shapes to start
    from, in place of a grid over the bounds. Intervals are by profile likelihood for squares, by
    resampled points for Huber's loss. Raises AnalysisError where there are too few budgets.
    """
    points = x if isinstance(x, Points) else Points(np.asarray(x, float))
    _enough(law, points)
    problem = Problem(law, points, np.asarray(losses, float), weights)
    logs = starts(problem) if begin is None else begin
    if objective == "squares":
        reached = minimise(problem, logs)
    else:
        reached = minimise_from(problem, logs, delta)
    fit = _best(problem, reached, delta if objective == "huber" else None)
    return with_intervals(fit) if intervals else fit


def with_intervals(fit: Fit) -> Fit:
    """The fit with 95 % intervals of its parameters and the tests of its residuals."""
    ends = profile_intervals(fit) if fit.delta is None else pair_intervals(fit)
    measured = {name: (value, value) for name, value in fit.law.measured.items()}
    return replace(fit, intervals=ends | measured, tests=residual_tests(fit))


def _enough(law: Law, x: Points) -> None:
    for name in law.needs:
        if getattr(x, name) is None:
            raise AnalysisError(
                f"the {law.name} law needs the column `{name}`; map it with --columns {name}=NAME"
            )
    budgets = len(np.unique(x.tokens))
    if budgets < law.min_budgets:
        raise AnalysisError(
            f"the {law.name} law needs {law.min_budgets} distinct budgets and there are {budgets}; "
            f"run {law.min_budgets - budgets} more"
        )
    if "model_size" in law.needs and x.model_size is not None:
        sizes = len(np.unique(x.model_size))
        if sizes < law.min_budgets:
            raise AnalysisError(
                f"the {law.name} law needs {law.min_budgets} model sizes and there are {sizes}; "
                f"run {law.min_budgets - sizes} more, or fit a law of tokens alone"
            )


def _best(problem: Problem, reached: Minimum, delta: float | None) -> Fit:
    best = int(reached.objective.argmin())
    logs, amplitudes = reached.logs[best], reached.amplitudes[best]
    lowest = reached.objective[best]
    tiny = 1e-22 * float((problem.losses**2).sum())
    same = reached.objective <= lowest * (1 + _SAME) + tiny
    shapes = {s.name: float(v) for s, v in zip(problem.free, np.exp(logs), strict=True)}
    named = dict(zip(problem.law.amplitudes, map(float, amplitudes), strict=True))
    told = Diagnostics(
        gradient=float(reached.gradient[best]),
        starts=len(same),
        agreeing=float(same.mean()),
        at_bound=bounds_hit(problem, logs, amplitudes),
        condition=_condition(problem, logs, amplitudes),
        moved=float(reached.moved[same].max()),
    )
    estimates = problem.law.measured | named | shapes
    return Fit(
        problem.law,
        problem,
        logs,
        amplitudes,
        float(lowest),
        reached.residuals[best],
        estimates,
        {},
        told,
        delta,
    )


def _condition(problem: Problem, logs: Floats, amplitudes: Floats) -> float:
    fit = Fit(
        problem.law, problem, logs, amplitudes, 0, logs, {}, {}, Diagnostics(0, 0, 0, (), 0, 0)
    )
    columns = tangents(fit, problem.x)
    length = np.linalg.norm(columns, axis=0)
    return float(np.linalg.cond(columns / np.where(length > 0, length, 1)))
