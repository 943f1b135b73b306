"""A law on data, for many rows at once: starts, resampled losses, held parameters.

A *row* is one least-squares problem with its own shapes. For given shapes the amplitudes are a
linear problem with a bound at zero, solved exactly (variable projection: Golub and Pereyra 1973).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import optimize

from scalinglaws.laws import Floats, Indices, Law, Points, Shape

#: Up to this many amplitudes all active sets are tried together; beyond, row by row.
_ENUMERATED = 3


@dataclass(frozen=True)
class Problem:
    """A law and the ``losses`` that it is fitted to: [n] for all rows, or [R, n].

    ``weights`` of the same shape multiply squared residuals. ``held`` fixes parameters: one number
    for all rows, or one per row [R].
    """

    law: Law
    x: Points
    losses: Floats
    weights: Floats | None = None
    held: dict[str, float | Floats] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        return self.law.shapes(self.x)

    @cached_property
    def free(self) -> tuple[Shape, ...]:
        return tuple(shape for shape in self.shapes if shape.name not in self.held)

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        low = np.array([np.log(shape.low) for shape in self.free])
        high = np.array([np.log(shape.high) for shape in self.free])
        return low, high

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.law.amplitudes, *(shape.name for shape in self.shapes))

    def rows(self, chosen: Indices) -> Problem:
        """The same problem for these rows alone (a mask or indices)."""

        def part(values: Floats) -> Floats:
            return values[chosen] if values.ndim == 2 else values

        held = {n: v if np.ndim(v) == 0 else np.asarray(v)[chosen] for n, v in self.held.items()}
        weights = None if self.weights is None else part(self.weights)
        return replace(self, losses=part(self.losses), weights=weights, held=held)

    def terms(self, logs: Floats) -> tuple[Floats, Floats]:
        """Offset [R, n] and terms [R, n, k] at log shapes [R, p] of the free shapes."""
        moving = iter(range(logs.shape[1]))
        values = []
        for shape in self.shapes:
            held = self.held.get(shape.name)
            value = np.exp(logs[:, next(moving)]) if held is None else np.asarray(held, float)
            values.append(np.broadcast_to(value, len(logs))[:, None])
        offset, terms = self.law.terms(self.x, *values)
        size = (len(logs), len(self.x))
        stacked = np.empty((*size, len(terms)))
        for index, term in enumerate(terms.values()):
            stacked[..., index] = term
        return np.broadcast_to(np.asarray(offset, float), size), stacked

    def solve(self, logs: Floats) -> tuple[Floats, Floats]:
        """Weighted residuals [R, n] (curve - loss) and amplitudes [R, k] at log shapes [R, p]."""
        offset, terms = self.terms(logs)
        target = self.losses - offset
        if self.weights is not None:
            scale = np.sqrt(self.weights)
            target, terms = target * scale, terms * scale[..., None]
        fixed = {i: self.held[n] for i, n in enumerate(self.law.amplitudes) if n in self.held}
        amplitudes = bounded_solve(terms, target, fixed)
        return (terms @ amplitudes[..., None])[..., 0] - target, amplitudes

    def curve(self, logs: Floats, amplitudes: Floats, x: Points) -> Floats:
        """The fitted curves [R, m] at other points."""
        offset, terms = replace(self, x=x).terms(logs)
        curves: Floats = offset + (terms @ amplitudes[..., None])[..., 0]
        return curves


def bounded_solve(terms: Floats, target: Floats, fixed: dict[int, float | Floats]) -> Floats:
    """Amplitudes [R, k] >= 0 of terms [R, n, k] that come nearest to target [R, n]."""
    rows, _, count = terms.shape
    free = [index for index in range(count) if index not in fixed]
    amplitudes = np.zeros((rows, count))
    for index, value in fixed.items():
        amplitudes[:, index] = value
        target = target - amplitudes[:, index, None] * terms[..., index]
    if not free:
        return amplitudes
    part = terms if len(free) == count else terms[..., free]
    solved = _least_squares(part, target)
    below = (solved < 0).any(axis=1)
    if below.any():
        nearest = _enumerate if len(free) <= _ENUMERATED else _one_by_one
        solved[below] = nearest(part[below], np.broadcast_to(target, part.shape[:2])[below])
    amplitudes[:, free] = solved
    return amplitudes


def _least_squares(terms: Floats, target: Floats) -> Floats:
    """By normal equations of terms scaled to length 1, so that squaring them is safe."""
    length = np.sqrt(np.einsum("rnk,rnk->rk", terms, terms)) + 1e-300
    unit = terms / length[:, None, :]
    across = unit.transpose(0, 2, 1)
    normal = across @ unit + 1e-14 * np.eye(terms.shape[-1])
    solved: Floats = np.linalg.solve(normal, across @ target[..., None])[..., 0] / length
    return solved


def _enumerate(terms: Floats, target: Floats) -> Floats:
    """The best of all sets of amplitudes that are not zero."""
    rows, _, count = terms.shape
    best = np.zeros((rows, count))
    lowest = np.einsum("rn,rn->r", target, target)
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            part = terms[..., chosen]
            solution = _least_squares(part, target)
            rest = target - (part @ solution[..., None])[..., 0]
            error = np.einsum("rn,rn->r", rest, rest)
            better = (solution >= 0).all(axis=1) & (error < lowest)
            lowest = np.where(better, error, lowest)
            candidate = np.zeros_like(best)
            candidate[:, chosen] = solution
            best = np.where(better[:, None], candidate, best)
    return best


def _one_by_one(terms: Floats, target: Floats) -> Floats:
    length = np.sqrt(np.einsum("rnk,rnk->rk", terms, terms)) + 1e-300
    pairs = zip(terms / length[:, None, :], target, strict=True)
    solved: Floats = np.array([optimize.nnls(matrix, wanted)[0] for matrix, wanted in pairs])
    return np.asarray(solved / length)
