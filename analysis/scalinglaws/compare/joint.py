"""One law on several methods at once, with parameters that are shared or each method's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats, Indices, Law, Points, Shape, Terms
from scalinglaws.problem import Problem


class JointLaw(Law):
    """``law`` where each method has its own parameters ``own`` and shares the others.

    groups [n]: each point's method, a place in ``methods``. A parameter of one method is called
    ``E[random]``.
    """

    name = "joint"

    def __init__(
        self, law: Law, methods: Sequence[str], groups: Indices, own: Sequence[str]
    ) -> None:
        self.law, self.methods, self.groups = law, tuple(methods), groups
        self.own = frozenset(own)
        self.amplitudes = tuple(name for base in law.amplitudes for name in self._names(base))
        self.min_budgets = law.min_budgets

    def _names(self, base: str) -> list[str]:
        return [f"{base}[{method}]" for method in self.methods] if base in self.own else [base]

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return tuple(
            Shape(name, shape.unit, shape.low, shape.high)
            for shape in self.law.shapes(x)
            for name in self._names(shape.name)
        )

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        given = iter(shapes)
        values = []
        for shape in self.law.shapes(x):
            each = [next(given) for _ in self._names(shape.name)]
            values.append(
                np.concatenate(each, axis=1)[:, self.groups] if len(each) > 1 else each[0]
            )
        offset, terms = self.law.terms(x, *values)
        joint: dict[str, Floats | float] = {}
        for base, term in terms.items():
            names = self._names(base)
            for place, name in enumerate(names):
                joint[name] = term * (self.groups == place) if len(names) > 1 else term
        return offset, joint

    def part(
        self, fit: Fit, logs: Floats, amplitudes: Floats, method: str
    ) -> tuple[Floats, Floats]:
        """The log shapes [R, p] and amplitudes [R, k] of one method, as the plain law has them."""

        def pick(values: Floats, known: Sequence[str], bases: Sequence[str]) -> Floats:
            names = [f"{base}[{method}]" if base in self.own else base for base in bases]
            return values[:, [known.index(name) for name in names]]

        shapes = [shape.name for shape in self.law.shapes(fit.problem.x)]
        free = [shape.name for shape in fit.problem.free]
        return pick(logs, free, shapes), pick(amplitudes, self.amplitudes, self.law.amplitudes)


def fit_joint(
    fits: Mapping[str, Fit], own: Sequence[str], starts: Sequence[Floats] | None = None
) -> Fit:
    """Least squares on the points of all fits, which are of one law.

    starts: log shapes, each [methods, p]; shared shapes are averaged. Default: a grid.
    """
    problems = [fit.problem for fit in fits.values()]
    names = [name for name, _ in problems[0].x.given()]
    x = Points(**{n: np.concatenate([getattr(p.x, n) for p in problems]) for n in names})
    groups = np.repeat(np.arange(len(problems)), [len(p.x) for p in problems])
    weights = None
    if any(p.weights is not None for p in problems):
        weights = np.concatenate(
            [np.ones(len(p.x)) if p.weights is None else p.weights for p in problems]
        )
    law = JointLaw(problems[0].law, list(fits), groups, own)
    losses = np.concatenate([p.losses for p in problems])
    begin = None
    if starts is not None:
        shapes = [shape.name for shape in problems[0].shapes]
        rows = [
            np.concatenate(
                [s[:, j] if n in own else s[:, j].mean(keepdims=True) for j, n in enumerate(shapes)]
                or [np.empty(0)]
            )
            for s in starts
        ]
        begin = np.clip(rows, *Problem(law, x, losses).bounds)
    return fit_law(law, x, losses, weights, intervals=False, begin=begin)
