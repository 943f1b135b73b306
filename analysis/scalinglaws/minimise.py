"""Levenberg-Marquardt on the projected residuals, for all rows of a problem at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from scalinglaws.laws import Floats
from scalinglaws.problem import Problem

_ITERATIONS = 200
_STEP = 1e-5
#: Starts a dimension on a grid; with more than two dimensions, points of a Sobol sequence.
_A_SIDE, _SPREAD = 8, 128
#: Cosine between residuals and tangent below which an optimum is reached to rounding.
_FLAT = 1e-9
#: A row also stops once a step gains less than this part of its objective.
_STALLED = 1e-13
_AT_BOUND = 1e-6


@dataclass(frozen=True)
class Minimum:
    """Each row's minimum: log shapes [R, p], amplitudes [R, k], objective [R], gradient [R].

    gradient: the largest cosine between the residuals and the tangents; 0 at an optimum. moved: the
    distance of the log shapes from their start.
    """

    logs: Floats
    amplitudes: Floats
    objective: Floats
    residuals: Floats
    gradient: Floats
    moved: Floats


def starts(problem: Problem) -> Floats:
    """Log shapes [S, p] spread over the bounds."""
    low, high = problem.bounds
    if len(low) <= 2:
        axes = [np.linspace(a, b, _A_SIDE + 2)[1:-1] for a, b in zip(low, high, strict=True)]
        return np.array(list(itertools.product(*axes))).reshape(_A_SIDE ** len(low), len(low))
    cube = qmc.Sobol(len(low), seed=0).random(_SPREAD)
    return np.asarray(low + (0.05 + 0.9 * cube) * (high - low))


def minimise(problem: Problem, logs: Floats, iterations: int = _ITERATIONS) -> Minimum:
    """The minimum that each row's start [R, p] leads to, within the bounds of the shapes."""
    begun = logs
    logs = logs.copy()
    residuals, amplitudes = problem.solve(logs)
    objective = _squares(residuals)
    gradient = np.zeros(len(logs))
    damping = np.full(len(logs), 1e-3)
    exact = 1e-24 * np.broadcast_to(_squares(problem.losses), len(logs))
    active = np.arange(len(logs))
    for _ in range(iterations if logs.shape[1] else 0):
        part = problem.rows(active)
        move, flatness = _step(part, logs[active], residuals[active], damping[active])
        flatness[objective[active] <= exact[active]] = 0
        gradient[active] = flatness
        trial = np.clip(logs[active] + np.clip(move, -2, 2), *problem.bounds)
        tried, tried_amplitudes = part.solve(trial)
        value = _squares(tried)
        better = value < objective[active]
        gained = np.where(better, 1 - value / np.maximum(objective[active], 1e-300), 0)
        kept = active[better]
        logs[kept], residuals[kept] = trial[better], tried[better]
        amplitudes[kept], objective[kept] = tried_amplitudes[better], value[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.1, 10), 1e-12, 1e12)
        done = (flatness < _FLAT) | (damping[active] > 1e9) | (better & (gained < _STALLED))
        active = active[~done]
        if not len(active):
            break
    moved = np.abs(logs - begun).max(axis=1, initial=0)
    return Minimum(logs, amplitudes, objective, residuals, gradient, moved)


def _squares(residuals: Floats) -> Floats:
    return np.asarray(np.einsum("...n,...n->...", residuals, residuals))


def _step(
    problem: Problem, logs: Floats, residuals: Floats, damping: Floats
) -> tuple[Floats, Floats]:
    """The damped Gauss-Newton move [R, p] and each row's flatness [R]."""
    tangents = jacobian(problem, logs)
    slope = np.einsum("rnp,rn->rp", tangents, residuals)
    blocked = _blocked(problem, logs, slope)
    tangents = np.where(blocked[:, None, :], 0, tangents)
    slope = np.where(blocked, 0, slope)
    normal = tangents.transpose(0, 2, 1) @ tangents
    diagonal = np.einsum("rpp->rp", normal)
    lifted = damping[:, None] * diagonal + 1e-14 * diagonal.max(axis=1, initial=0)[:, None] + 1e-300
    normal = normal + np.eye(logs.shape[1]) * lifted[:, None, :]
    lengths = np.sqrt(diagonal * _squares(residuals)[:, None]) + 1e-300
    flatness = (np.abs(slope) / lengths).max(axis=1)
    return -np.linalg.solve(normal, slope[..., None])[..., 0], flatness


def _blocked(problem: Problem, logs: Floats, slope: Floats) -> npt.NDArray[np.bool_]:
    """Shapes at a bound that the slope pushes outwards."""
    low, high = problem.bounds
    blocked: npt.NDArray[np.bool_] = ((logs <= low) & (slope > 0)) | ((logs >= high) & (slope < 0))
    return blocked


def jacobian(problem: Problem, logs: Floats) -> Floats:
    """Jacobian [R, n, p] of the projected residuals, by central differences in the log shapes."""
    parts = np.empty((len(logs), len(problem.x), logs.shape[1]))
    for index in range(logs.shape[1]):
        shift = np.zeros(logs.shape[1])
        shift[index] = _STEP
        ahead, behind = problem.solve(logs + shift)[0], problem.solve(logs - shift)[0]
        parts[..., index] = (ahead - behind) / (2 * _STEP)
    return parts


def bounds_hit(problem: Problem, logs: Floats, amplitudes: Floats) -> tuple[str, ...]:
    """Parameters of one row that ended at a bound; a floor of zero does not count."""
    low, high = problem.bounds
    shapes = [
        shape.name
        for shape, value, a, b in zip(problem.free, logs, low, high, strict=True)
        if value < a + _AT_BOUND or value > b - _AT_BOUND
    ]
    zero = [
        name
        for name, value in zip(problem.law.amplitudes, amplitudes, strict=True)
        if value == 0 and name not in problem.held and name.partition("[")[0] != "E"
    ]
    return (*zero, *shapes)
