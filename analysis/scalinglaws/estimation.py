"""Least squares by variable projection, from many starts at once.

For given shapes the amplitudes are a linear least-squares problem with a bound at zero, solved
exactly (Golub and Pereyra 1973); Levenberg-Marquardt moves the logarithms of the shapes of all
starts together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from scalinglaws.errors import AnalysisError
from scalinglaws.laws import Floats, Law, Shape

_STARTS = 8
_ITERATIONS = 200
_STEP = 1e-5
#: Starts whose objective is this close, relatively, reached the same optimum.
_SAME = 1e-6
#: Cosine between residuals and tangent below which an optimum is reached to rounding.
_FLAT = 1e-9


@dataclass(frozen=True)
class Problem:
    """A law on data; ``held`` fixes parameters, ``weights`` [n] multiply residuals."""

    law: Law
    tokens: Floats
    losses: Floats
    held: dict[str, float] = field(default_factory=dict)
    weights: Floats | None = None

    @property
    def all_shapes(self) -> tuple[Shape, ...]:
        return self.law.shapes(self.tokens)

    @property
    def free(self) -> tuple[Shape, ...]:
        return tuple(shape for shape in self.all_shapes if shape.name not in self.held)

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        low = np.array([np.log(shape.low) for shape in self.free])
        high = np.array([np.log(shape.high) for shape in self.free])
        return low, high

    def solve(self, logs: Floats) -> tuple[Floats, Floats]:
        """Residuals [S, n] and amplitudes [S, k] at log shapes [S, p]."""
        values = np.empty((len(logs), len(self.all_shapes)))
        moving = iter(range(logs.shape[1]))
        for index, shape in enumerate(self.all_shapes):
            held = self.held.get(shape.name)
            values[:, index] = np.exp(logs[:, next(moving)]) if held is None else held
        offset, columns = self.law.columns(values, self.tokens)
        scale = np.ones_like(self.losses) if self.weights is None else self.weights
        target = (self.losses - offset) * scale
        columns = columns * scale[:, None]
        fixed = {
            index: self.held[name]
            for index, name in enumerate(self.law.amplitudes)
            if name in self.held
        }
        amplitudes = _bounded_solve(columns, target, fixed)
        return np.einsum("snk,sk->sn", columns, amplitudes) - target, amplitudes


def _bounded_solve(columns: Floats, target: Floats, fixed: dict[int, float]) -> Floats:
    """Least squares with amplitudes >= 0: the best of all sets of active columns, per start."""
    starts, _, count = columns.shape
    free = [index for index in range(count) if index not in fixed]
    best = np.zeros((starts, count))
    for index, value in fixed.items():
        best[:, index] = value
        target = target - value * columns[..., index]
    lowest = np.einsum("sn,sn->s", target, target)
    for size in range(1, len(free) + 1):
        for chosen in itertools.combinations(free, size):
            part = columns[..., list(chosen)]
            solution = _normal_solve(part, target)
            rest = target - np.einsum("snk,sk->sn", part, solution)
            error = np.einsum("sn,sn->s", rest, rest)
            better = (solution >= 0).all(axis=1) & (error < lowest)
            lowest = np.where(better, error, lowest)
            for place, index in enumerate(chosen):
                best[:, index] = np.where(better, solution[:, place], best[:, index])
            for index in set(free) - set(chosen):
                best[:, index] = np.where(better, 0.0, best[:, index])
    return best


def _normal_solve(columns: Floats, target: Floats) -> Floats:
    """Least squares by normal equations; columns are of order 1, so squaring them is safe."""
    normal = np.einsum("snk,snl->skl", columns, columns)
    right = np.einsum("snk,sn->sk", columns, target)
    size = columns.shape[-1]
    lifted = normal + 1e-13 * np.eye(size) * np.trace(normal, axis1=1, axis2=2)[:, None, None]
    solved: Floats = np.linalg.solve(lifted + 1e-300 * np.eye(size), right[..., None])[..., 0]
    return solved


@dataclass(frozen=True)
class Optimum:
    """The best of all starts. agreeing: share of starts that reached it. at_bound: names."""

    values: dict[str, float]
    logs: Floats
    sse: float
    residuals: Floats
    gradient: float
    agreeing: float
    at_bound: tuple[str, ...]


def minimise(problem: Problem, starts: Floats | None = None) -> Optimum:
    """Batched Levenberg-Marquardt within the bounds of the shapes."""
    low, high = problem.bounds
    logs = _grid(low, high) if starts is None else starts.copy()
    residuals, amplitudes = problem.solve(logs)
    sse = (residuals**2).sum(axis=1)
    damping = np.full(len(logs), 1e-3)
    exact = 1e-20 * (problem.losses**2).sum()
    gradient = np.zeros(len(logs))
    for _ in range(_ITERATIONS if logs.shape[1] else 0):
        jacobian = _jacobian(problem, logs)
        slope = np.einsum("snp,sn->sp", jacobian, residuals)
        normal = np.einsum("snp,snq->spq", jacobian, jacobian)
        diagonal = np.einsum("spp->sp", normal)
        lifted = normal + np.eye(len(low)) * (damping[:, None] * diagonal + 1e-14)[:, None, :]
        move = -np.linalg.solve(lifted, slope[..., None])[..., 0]
        trial = np.clip(logs + np.clip(move, -2, 2), low, high)
        trial_residuals, trial_amplitudes = problem.solve(trial)
        trial_sse = (trial_residuals**2).sum(axis=1)
        better = trial_sse < sse
        gained = np.where(better, sse - trial_sse, 0)
        logs = np.where(better[:, None], trial, logs)
        residuals = np.where(better[:, None], trial_residuals, residuals)
        amplitudes = np.where(better[:, None], trial_amplitudes, amplitudes)
        sse = np.where(better, trial_sse, sse)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-12, 1e12)
        # The cosine between residuals and the tangent: scale-free, 0 at an optimum.
        lengths = np.sqrt(diagonal * sse[:, None]) + 1e-300
        inside = (logs > low + 1e-9) & (logs < high - 1e-9)
        gradient = np.where(inside, np.abs(slope) / lengths, 0).max(axis=1)
        gradient = np.where(sse <= exact, 0, gradient)
        if ((gradient < _FLAT) | (damping > 1e8) | (gained < 1e-12 * sse) & better).all():
            break
    best = int(sse.argmin())
    same = sse <= sse[best] * (1 + _SAME) + 1e-24
    return Optimum(
        _values(problem, logs[best], amplitudes[best]),
        logs[best],
        float(sse[best]),
        residuals[best],
        float(gradient[best]),
        float(same.mean()),
        _bounds_hit(problem, logs[best], amplitudes[best]),
    )


def _grid(low: Floats, high: Floats) -> Floats:
    axes = [np.linspace(a, b, _STARTS + 2)[1:-1] for a, b in zip(low, high, strict=True)]
    return np.array(list(itertools.product(*axes))).reshape(-1, len(low))


def _jacobian(problem: Problem, logs: Floats) -> Floats:
    """Of the projected residuals, by central differences: [S, n, p]."""
    parts = []
    for index in range(logs.shape[1]):
        shift = np.zeros(logs.shape[1])
        shift[index] = _STEP
        ahead, behind = problem.solve(logs + shift)[0], problem.solve(logs - shift)[0]
        parts.append((ahead - behind) / (2 * _STEP))
    return np.stack(parts, axis=-1)


def _values(problem: Problem, logs: Floats, amplitudes: Floats) -> dict[str, float]:
    shapes = {s.name: float(v) for s, v in zip(problem.free, np.exp(logs), strict=True)}
    named = dict(zip(problem.law.amplitudes, map(float, amplitudes), strict=True))
    return named | shapes | {k: v for k, v in problem.held.items() if k not in named}


def _bounds_hit(problem: Problem, logs: Floats, amplitudes: Floats) -> tuple[str, ...]:
    low, high = problem.bounds
    hit = [s.name for s, x, a, b in zip(problem.free, logs, low, high, strict=True)
           if x <= a + 1e-6 or x >= b - 1e-6]  # fmt: skip
    # A floor of zero is an answer; a reducible loss of zero is none.
    hit += [name for name, value in zip(problem.law.amplitudes, amplitudes, strict=True)
            if value <= 0 and name != "E" and name not in problem.held]  # fmt: skip
    return tuple(hit)


@dataclass(frozen=True)
class Fit:
    """A law fitted to one method. estimates and intervals carry the formula's parameter names."""

    law: Law
    problem: Problem
    optimum: Optimum
    estimates: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    converged: bool
    identified: bool
    message: str

    def predict(self, tokens: Floats) -> Floats:
        """The fitted curve at ``tokens`` [n]."""
        shapes = np.array([[self.optimum.values[s.name] for s in self.problem.all_shapes]])
        offset, columns = self.law.columns(shapes, tokens)
        amplitudes = np.array([self.optimum.values[name] for name in self.law.amplitudes])
        curve: Floats = offset[0] + columns[0] @ amplitudes
        return curve


def fit_law(law: Law, tokens: Floats, losses: Floats) -> Fit:
    """Fit ``law`` by least squares. Raises AnalysisError where there are too few budgets."""
    from scalinglaws.intervals import profile_intervals

    budgets = len(np.unique(tokens))
    if budgets < law.min_budgets:
        missing = law.min_budgets - budgets
        raise AnalysisError(
            f"the {law.name} law needs {law.min_budgets} distinct budgets and there are {budgets}; "
            f"run {missing} more"
        )
    problem = Problem(law, tokens, losses)
    optimum = minimise(problem)
    intervals = profile_intervals(problem, optimum)
    estimates = law.report(optimum.values)
    converged = optimum.gradient < 1e-4 and not optimum.at_bound
    identified = converged and all(np.isfinite(ends).all() for ends in intervals.values())
    return Fit(law, problem, optimum, estimates, intervals, converged, identified,
               _message(optimum, converged, identified))  # fmt: skip


def _message(optimum: Optimum, converged: bool, identified: bool) -> str:
    if optimum.at_bound:
        return f"no inner optimum: {', '.join(optimum.at_bound)} ended at a bound"
    if not converged:
        return f"the optimizer did not converge (gradient {optimum.gradient:.1e})"
    if not identified:
        return "converged, but the data leave a parameter open: its interval has no end"
    return "converged and identified"
