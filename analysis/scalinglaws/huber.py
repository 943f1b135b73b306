"""Huber's loss on the logarithm of the loss, in all parameters at once (Hoffmann et al. 2022).

The objective is the sum (not the mean: a mean lets optimizers stop early) over points of
huber_delta(log curve - log loss), with huber(r) = r^2 / 2 up to delta and delta (|r| - delta / 2)
beyond. With the usual delta of 1e-3 it is nearly the sum of absolute residuals.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from scalinglaws.laws import Floats
from scalinglaws.minimise import Minimum, minimise
from scalinglaws.problem import Problem

DELTA = 1e-3
_ITERATIONS = 200
_STEP = 1e-5
_FLAT = 1e-9
_STALLED = 1e-13
#: Logarithms of amplitudes stay within this of 0; an amplitude of exp(-60) is zero.
_AMPLITUDES = 60.0


def start_from(problem: Problem, logs: Floats) -> Floats:
    """Logarithms of all parameters [R, k + p] from log shapes [R, p].

    They are those of least squares on relative residuals, which for small residuals are those of
    the logarithm.
    """
    weights = 1 / problem.losses**2
    if problem.weights is not None:
        weights = weights * problem.weights
    reached = minimise(replace(problem, weights=weights), logs)
    amplitudes = np.maximum(reached.amplitudes, np.exp(-_AMPLITUDES))
    return np.concatenate([np.log(amplitudes), reached.logs], axis=1)


def minimise_from(problem: Problem, logs: Floats, delta: float = DELTA) -> Minimum:
    """The minimum that each start of log shapes [R, p] leads to, by way of least squares.

    Starts that least squares brings to the same place continue as one.
    """
    begun = start_from(problem, logs)
    _, first, back = np.unique(begun.round(6), axis=0, return_index=True, return_inverse=True)
    reached = minimise_huber(problem, begun[first], delta)
    return Minimum(*(getattr(reached, each.name)[back.reshape(-1)] for each in fields(reached)))


def minimise_huber(problem: Problem, start: Floats, delta: float = DELTA) -> Minimum:
    """The minimum that each row's start [R, k + p] (logs of all parameters) leads to.

    Each step is the better of two: Newton's, and that of the quadratic that touches Huber's loss
    from above (iteratively reweighted least squares), which alone is slow near the optimum.
    """
    theta = start.copy()
    value = _objective(problem, theta, delta)
    gradient = np.ones(len(theta))
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(_ITERATIONS):
        part = problem.rows(active)
        here = theta[active]
        moves, flatness = _moves(part, here, damping[active], delta)
        gradient[active] = flatness
        trials = [_inside(part, here + np.clip(move, -2, 2)) for move in moves]
        values = np.stack([_objective(part, trial, delta) for trial in trials])
        best = values.argmin(axis=0)
        lowest = values.min(axis=0)
        better = lowest < value[active]
        gained = 1 - lowest / np.maximum(value[active], 1e-300)
        theta[active[better]] = np.stack(trials)[best, np.arange(len(active))][better]
        value[active[better]] = lowest[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.1, 10), 1e-12, 1e12)
        done = (flatness < _FLAT) | (damping[active] > 1e9) | (better & (gained < _STALLED))
        active = active[~done]
        if not len(active):
            break
    count = len(problem.law.amplitudes)
    residuals = np.log(_curve(problem, theta)) - np.log(problem.losses)
    moved = np.abs(theta - start).max(axis=1)
    return Minimum(theta[:, count:], np.exp(theta[:, :count]), value, residuals, gradient, moved)


def _inside(problem: Problem, theta: Floats) -> Floats:
    low, high = problem.bounds
    edge = np.full(len(problem.law.amplitudes), _AMPLITUDES)
    return np.clip(theta, np.concatenate([-edge, low]), np.concatenate([edge, high]))


def _curve(problem: Problem, theta: Floats) -> Floats:
    count = len(problem.law.amplitudes)
    return problem.curve(theta[:, count:], np.exp(theta[:, :count]), problem.x)


def _objective(problem: Problem, theta: Floats, delta: float) -> Floats:
    size = np.abs(np.log(_curve(problem, theta)) - np.log(problem.losses))
    each = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
    return np.asarray((each if problem.weights is None else each * problem.weights).sum(axis=1))


def _slopes(problem: Problem, theta: Floats) -> Floats:
    """Derivatives [R, n, k + p] of the curve by the logarithms of all parameters."""
    count = len(problem.law.amplitudes)
    _, terms = problem.terms(theta[:, count:])
    parts = [terms * np.exp(theta[:, None, :count])]
    for index in range(count, theta.shape[1]):
        shift = np.zeros(theta.shape[1])
        shift[index] = _STEP
        ahead, behind = _curve(problem, theta + shift), _curve(problem, theta - shift)
        parts.append(((ahead - behind) / (2 * _STEP))[..., None])
    return np.concatenate(parts, axis=-1)


def _moves(
    problem: Problem, theta: Floats, damping: Floats, delta: float
) -> tuple[list[Floats], Floats]:
    """Newton's and the reweighted move, each [R, k + p], and each row's flatness [R]."""
    curve = _curve(problem, theta)
    slopes = _slopes(problem, theta)
    residuals = np.log(curve) - np.log(problem.losses)
    size = np.abs(residuals)
    weights = np.ones_like(size) if problem.weights is None else problem.weights
    pull = np.clip(residuals, -delta, delta) * weights
    tangents = slopes / curve[..., None]
    gradient = np.einsum("rnp,rn->rp", tangents, pull)

    def normal(scale: Floats) -> Floats:
        return np.asarray(tangents.transpose(0, 2, 1) @ (tangents * scale[..., None]))

    above = normal(weights * np.minimum(1, delta / np.maximum(size, 1e-300)))
    bending = _bending(problem, theta, slopes, pull / curve)
    exact = normal(weights * (size < delta) - pull) + bending
    diagonal = np.einsum("rpp->rp", above)
    lift = np.eye(theta.shape[1]) * ((damping[:, None] + 1e-13) * diagonal + 1e-300)[:, None, :]
    moves = [-np.linalg.solve(h + lift, gradient[..., None])[..., 0] for h in (exact, above)]
    lengths = np.sqrt((tangents**2).sum(axis=1) * (pull**2).sum(axis=1)[:, None]) + 1e-300
    return moves, (np.abs(gradient) / lengths).max(axis=1)


def _bending(problem: Problem, theta: Floats, slopes: Floats, along: Floats) -> Floats:
    """Second derivatives [R, k + p, k + p] of the curve, summed over points with ``along``."""
    count, size = len(problem.law.amplitudes), theta.shape[1]
    summed = np.zeros((len(theta), size, size))
    amplitudes = np.arange(count)
    summed[:, amplitudes, amplitudes] = np.einsum("rnk,rn->rk", slopes[..., :count], along)
    for index in range(count, size):
        shift = np.zeros(size)
        shift[index] = 1e-4
        change = _slopes(problem, theta + shift) - _slopes(problem, theta - shift)
        summed[:, index] = np.einsum("rnp,rn->rp", change, along) / 2e-4
    summed[:, :count, count:] = summed[:, count:, :count].transpose(0, 2, 1)
    return np.asarray((summed + summed.transpose(0, 2, 1)) / 2)
