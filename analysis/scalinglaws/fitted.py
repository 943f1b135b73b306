"""A law fitted to one table of points, with all that is needed to judge the fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scalinglaws.laws import Floats, Law, Points
from scalinglaws.problem import Problem

#: A cosine of 1e-4 leaves 1e-8 of the objective to gain.
_CONVERGED = 1e-4


@dataclass(frozen=True)
class Diagnostics:
    """How the optimum was reached.

    gradient: largest cosine between residuals and tangents, 0 at an optimum. agreeing: share of
    starts that reached it. condition: of the tangents scaled to length 1. moved: the largest
    distance from such a start to it, in logarithms of shapes.
    """

    gradient: float
    starts: int
    agreeing: float
    at_bound: tuple[str, ...]
    condition: float
    moved: float


@dataclass(frozen=True)
class Fit:
    """A law fitted to points. Keys of ``estimates`` and ``intervals`` are the formula's names.

    objective: sum of squared residuals (nats^2), or of Huber's loss. An end of an interval is
    infinite where the data do not bound it.
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
        """Degrees of freedom of the residuals."""
        return self.points - self.free_parameters

    @property
    def residual_sd(self) -> float:
        """Residual standard deviation in nats, by degrees of freedom; NaN without any."""
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
            return f"converged, but the data do not bound {', '.join(loose)}: open interval"
        return "converged and identified"

    def predict(self, x: Points | Floats) -> Floats:
        """The fitted curve [m] at points, or at token budgets of the same model."""
        at = x if isinstance(x, Points) else self.problem.x.at(np.asarray(x, float))
        curve: Floats = self.problem.curve(self.logs[None], self.amplitudes[None], at)[0]
        return curve


def tangents(fit: Fit, x: Points) -> Floats:
    """Derivatives [m, k + p] of the curve at ``x`` by the amplitudes and the log shapes."""
    problem = Problem(fit.law, x, np.zeros(len(x)), None, fit.problem.held)
    _, terms = problem.terms(fit.logs[None])
    parts = [terms[0]]
    for index in range(len(fit.logs)):
        shift = np.zeros(len(fit.logs))
        shift[index] = 1e-5
        ends = [
            problem.curve((fit.logs + sign * shift)[None], fit.amplitudes[None], x)[0]
            for sign in (1, -1)
        ]
        parts.append(((ends[0] - ends[1]) / 2e-5)[:, None])
    return np.concatenate(parts, axis=1)
