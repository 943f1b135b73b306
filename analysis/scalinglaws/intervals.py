"""Profile-likelihood intervals of parameters, and bands of curves."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

from scalinglaws.estimation import Fit, Optimum, Problem, minimise
from scalinglaws.laws import Floats

_CONFIDENCE = 0.95
#: In the logarithm of a parameter: a factor of 5e8 either way is no answer.
_FARTHEST = 20.0


def profile_intervals(
    problem: Problem, optimum: Optimum, confidence: float = _CONFIDENCE
) -> dict[str, tuple[float, float]]:
    """Where the sum of squares, minimised over the others, passes the F threshold.

    Bates and Watts 1988, section 6.1. An end that is never reached is infinite; without degrees of
    freedom every interval is.
    """
    count = len(problem.law.amplitudes) + len(problem.all_shapes)
    degrees = len(problem.losses) - count
    intervals: dict[str, tuple[float, float]] = {}
    for name, value in optimum.values.items():
        ends = (-np.inf, np.inf)
        if degrees > 0 and optimum.sse > 0 and value > 0:
            limit = optimum.sse * (1 + stats.f.ppf(confidence, 1, degrees) / degrees)
            ends = (_end(problem, optimum, name, limit, -1), _end(problem, optimum, name, limit, 1))
        intervals[name] = ends
    return _reported(problem, optimum, intervals)


def _end(problem: Problem, optimum: Optimum, name: str, limit: float, side: int) -> float:
    """The value beside the optimum at which the profile reaches ``limit``; infinite if nowhere."""
    value = optimum.values[name]

    def excess(distance: float) -> float:
        sse = _profile(problem, optimum, name, value * np.exp(side * distance))
        return float(np.sqrt(sse) - np.sqrt(limit))

    inside, outside = 0.0, 0.02
    while excess(outside) < 0:
        inside, outside = outside, outside * 2
        if outside > _FARTHEST:
            return side * np.inf
    return float(value * np.exp(side * optimize.brentq(excess, inside, outside, rtol=1e-5)))


def _profile(problem: Problem, optimum: Optimum, name: str, value: float) -> float:
    held = Problem(problem.law, problem.tokens, problem.losses, {name: float(value)},
                   problem.weights)  # fmt: skip
    names = [shape.name for shape in problem.free]
    keep = [index for index, other in enumerate(names) if other != name]
    low, high = held.bounds
    around = optimum.logs[keep][None] + np.array([[0.0], [1.0], [-1.0]])
    return minimise(held, np.clip(around, low, high)).sse


def _reported(
    problem: Problem, optimum: Optimum, intervals: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Intervals under the formula's names; a change of one parameter can swap its ends."""
    reported = {}
    centre = problem.law.report(optimum.values)
    for name in centre:
        owner = _owner(problem, name)
        if owner is None:
            reported[name] = (centre[name], centre[name])  # measured, not fitted
            continue
        ends = []
        for end in intervals[owner]:
            moved = optimum.values | {owner: end}
            if np.isfinite(end):
                ends.append(problem.law.report(moved)[name])
            else:
                ends.append(end if owner == name or owner == f"{name}'" else -end)
        reported[name] = (min(ends), max(ends))
    return reported


def _owner(problem: Problem, name: str) -> str | None:
    """The fitted parameter that a reported one follows from."""
    fitted = [*problem.law.amplitudes, *(shape.name for shape in problem.all_shapes)]
    if name in fitted:
        return name
    if f"{name}'" in fitted:
        return f"{name}'"
    return "A" if name == "E" and "A" in fitted else None


def band(fit: Fit, tokens: Floats, confidence: float = _CONFIDENCE) -> tuple[Floats, Floats]:
    """Pointwise band of the curve by the delta method with a t factor; NaN without freedom."""
    names = [*fit.law.amplitudes, *(shape.name for shape in fit.problem.all_shapes)]
    degrees = len(fit.problem.losses) - len(names)
    curve = fit.predict(tokens)
    if degrees <= 0:
        return np.full_like(curve, np.nan), np.full_like(curve, np.nan)

    def slopes(at: Floats) -> Floats:
        parts = []
        for name in names:
            value = fit.optimum.values[name]
            size = 1e-5 * max(abs(value), 1e-12)
            ends = [_moved(fit, name, value + sign * size).predict(at) for sign in (1, -1)]
            parts.append((ends[0] - ends[1]) / (2 * size) * max(abs(value), 1e-12))
        return np.stack(parts, axis=-1)

    data = slopes(fit.problem.tokens)
    covariance = np.linalg.pinv(data.T @ data) * fit.optimum.sse / degrees
    at = slopes(tokens)
    spread = np.sqrt(np.maximum(np.einsum("np,pq,nq->n", at, covariance, at), 0))
    factor = stats.t.ppf(0.5 + confidence / 2, degrees)
    return curve - factor * spread, curve + factor * spread


def _moved(fit: Fit, name: str, value: float) -> Fit:
    from dataclasses import replace

    return replace(fit, optimum=replace(fit.optimum, values=fit.optimum.values | {name: value}))
