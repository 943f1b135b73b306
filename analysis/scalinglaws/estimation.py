"""A law fitted to one table of points, with all that is needed to judge the fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from scalinglaws.errors import AnalysisError
from scalinglaws.huber import DELTA, minimise_from
from scalinglaws.laws import Floats, Law, Points
from scalinglaws.minimise import Minimum, bounds_hit, minimise, starts
from scalinglaws.problem import Problem

Objective = Literal["squares", "huber"]
#: Starts whose objective is this close, relatively, reached the same optimum.
_SAME = 1e-6
#: A cosine of 1e-4 leaves 1e-8 of the objective to gain.
_CONVERGED = 1e-4
#: Condition of the scaled tangents beyond which parameters only move together.
ILL_CONDITIONED = 1e4


@dataclass(frozen=True)
class Diagnostics:
    """How the optimum was reached.

    gradient: largest cosine between residuals and tangents, 0 at an optimum. agreeing: share of
    starts that reached it. condition: of the tangents scaled to length 1. moved: of the starts
    that reached it, the farthest that one went, in logarithms of shapes.
    """

    gradient: float
    starts: int
    agreeing: float
    at_bound: tuple[str, ...]
    condition: float
    moved: float


@dataclass(frozen=True)
class Fit:
    """A law fitted to points. ``estimates`` and ``intervals`` go by the formula's names.

    objective: sum of squared residuals (nats^2), or of Huber's loss. An interval's end is infinite
    where the data put none.
    """

    law: Law
    problem: Problem
    logs: Floats
    amplitudes: Floats
    objective: float
    residuals: Floats
    estimates: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    diagnostics: Diagnostics
    delta: float | None = None
    tests: dict[str, float] = field(default_factory=dict)

    @property
    def points(self) -> int:
        return len(self.problem.x)

    @property
    def free_parameters(self) -> int:
        return len(self.problem.parameters) - len(self.problem.held)

    @property
    def degrees(self) -> int:
        """Degrees of freedom that are left for the residuals."""
        return self.points - self.free_parameters

    @property
    def residual_sd(self) -> float:
        """In nats, free of the parameters' share; NaN without degrees of freedom."""
        if self.degrees <= 0:
            return float("nan")
        actual = self.problem.losses - self.predict(self.problem.x)
        return float(np.sqrt((actual**2).sum() / self.degrees))

    @property
    def converged(self) -> bool:
        told = self.diagnostics
        stuck = told.moved == 0 and told.gradient > _CONVERGED and len(self.logs) > 0
        return told.gradient < _CONVERGED and not told.at_bound and not stuck

    @property
    def identified(self) -> bool:
        ends = [end for interval in self.intervals.values() for end in interval]
        return self.converged and bool(np.isfinite(ends).all())

    @property
    def message(self) -> str:
        told = self.diagnostics
        if told.at_bound:
            return f"no inner optimum: {', '.join(told.at_bound)} ended at a bound"
        if told.moved == 0 and told.gradient > _CONVERGED:
            return "the optimizer did not leave its start"
        if not self.converged:
            return f"the optimizer did not converge (gradient {told.gradient:.1e})"
        if not self.identified:
            loose = [name for name, ends in self.intervals.items() if not np.isfinite(ends).all()]
            return f"converged, but the data leave {', '.join(loose)} open: no end to the interval"
        return "converged and identified"

    def predict(self, x: Points | Floats) -> Floats:
        """The fitted curve [m] at points, or at token budgets of the same model."""
        at = x if isinstance(x, Points) else self.problem.x.at(np.asarray(x, float))
        curve: Floats = self.problem.curve(self.logs[None], self.amplitudes[None], at)[0]
        return curve


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
    from scalinglaws.bootstrap import pair_intervals
    from scalinglaws.diagnostics import residual_tests
    from scalinglaws.profile import profile_intervals

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
    return Fit(problem.law, problem, logs, amplitudes, float(lowest), reached.residuals[best],
               estimates, {}, told, delta)  # fmt: skip


def tangents(fit: Fit, x: Points) -> Floats:
    """Of the curve at ``x`` in the amplitudes and the log shapes: [m, k + p]."""
    problem = Problem(fit.law, x, np.zeros(len(x)), None, fit.problem.held)
    _, terms = problem.terms(fit.logs[None])
    parts = [terms[0]]
    for index in range(len(fit.logs)):
        shift = np.zeros(len(fit.logs))
        shift[index] = 1e-5
        ends = [problem.curve((fit.logs + sign * shift)[None], fit.amplitudes[None], x)[0]
                for sign in (1, -1)]  # fmt: skip
        parts.append(((ends[0] - ends[1]) / 2e-5)[:, None])
    return np.concatenate(parts, axis=1)


def _condition(problem: Problem, logs: Floats, amplitudes: Floats) -> float:
    fit = Fit(problem.law, problem, logs, amplitudes, 0, logs, {}, {},
              Diagnostics(0, 0, 0, (), 0, 0))  # fmt: skip
    columns = tangents(fit, problem.x)
    length = np.linalg.norm(columns, axis=0)
    return float(np.linalg.cond(columns / np.where(length > 0, length, 1)))
