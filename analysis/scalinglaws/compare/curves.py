"""One method's curve with its draws, read both ways: the loss at tokens, the tokens for a loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalinglaws.bootstrap import Draws, quantiles
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats
from scalinglaws.study import Study

#: Curves are read up to this far beyond the largest measured budget.
BEYOND = 4.0
#: The tokens for a loss are sought from a thousandth of the least measured budget to 10^4 times
#: the largest. With 512 steps, linear interpolation is wrong by about 1e-4 of the tokens.
_BELOW, _ABOVE, _STEPS = 1e-3, 1e4, 512


@dataclass(frozen=True)
class Curves:
    """The fitted curve (row 0) and its draws (rows 1 to R).

    logs [1 + R, p], amplitudes [1 + R, k]: parameters of each row.
    """

    fit: Fit
    logs: Floats
    amplitudes: Floats

    @classmethod
    def of(cls, draws: Draws) -> Curves:
        fit = draws.fit
        logs = np.concatenate([fit.logs[None], draws.logs])
        return cls(fit, logs, np.concatenate([fit.amplitudes[None], draws.amplitudes]))

    @property
    def low(self) -> float:
        """Least measured tokens."""
        return float(self.fit.problem.x.tokens.min())

    @property
    def high(self) -> float:
        """Most measured tokens."""
        return float(self.fit.problem.x.tokens.max())

    @property
    def budgets(self) -> Floats:
        return np.unique(self.fit.problem.x.tokens)

    def losses(self, tokens: Floats) -> Floats:
        """Losses [1 + R, m] at tokens [m]."""
        at = self.fit.problem.x.at(np.asarray(tokens, float))
        return self.fit.problem.curve(self.logs, self.amplitudes, at)

    @cached_property
    def _ladder(self) -> tuple[Floats, Floats]:
        """Log tokens [K] and the least loss [1 + R, K] up to there."""
        logs = np.linspace(np.log(self.low * _BELOW), np.log(self.high * _ABOVE), _STEPS)
        return logs, np.minimum.accumulate(self.losses(np.exp(logs)), axis=1)

    def tokens_for(self, losses: Floats) -> Floats:
        """Tokens [1 + R, m] at which each row first comes down to its losses [1 + R, m].

        Infinite where it never does, 0 where it starts below.
        """
        logs, curve = self._ladder
        losses = np.broadcast_to(losses, (len(curve), np.shape(losses)[-1]))
        place = _first_at_most(curve, losses)
        after = np.clip(place, 1, len(logs) - 1)
        upper = np.take_along_axis(curve, after - 1, axis=1)
        lower = np.take_along_axis(curve, after, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip((upper - losses) / (upper - lower), 0, 1)
        found = np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1]))
        return np.where(place == 0, 0, np.where(place == len(logs), np.inf, found))

    def interval(self, values: Floats) -> tuple[Floats, Floats]:
        """95 % interval [m] of values of each row [1 + R, m]; NaN without degrees of freedom."""
        return interval(values[1:], self.fit)


def _first_at_most(
    falling: Floats, values: Floats
) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """By bisection, the first place in each row [K] that is <= values [m]; K where none is."""
    low = np.zeros(values.shape, dtype=np.intp)
    high = np.full(values.shape, falling.shape[1], dtype=np.intp)
    while (low < high).any():
        middle = (low + high) // 2
        read = np.take_along_axis(falling, np.minimum(middle, falling.shape[1] - 1), axis=1)
        reached = read <= values
        moving = low < high
        high = np.where(moving & reached, middle, high)
        low = np.where(moving & ~reached, middle + 1, low)
    return low


def interval(draws: Floats, *fits: Fit) -> tuple[Floats, Floats]:
    """95 % interval [m] of draws [R, m]; NaN where one of the fits has no degrees of freedom."""
    low, high = quantiles(draws)
    if any(fit.degrees <= 0 for fit in fits):
        return np.full_like(low, np.nan), np.full_like(high, np.nan)
    return low, high


def curves_of(study: Study) -> dict[str, Curves]:
    """Curves of the methods that the study's law fits; rows are paired between methods."""
    return {method: Curves.of(draws) for method, draws in study.draws.items()}


def token_grid(curves: Curves) -> Floats:
    """The measured budgets, steps of at most a factor 2 between, and 2 and 4 times the largest."""
    budgets = curves.budgets
    steps = np.ceil(np.log2(budgets[1:] / budgets[:-1]) - 1e-2).astype(int)
    between = [
        np.geomspace(a, b, max(count, 1) + 1)[1:-1]
        for a, b, count in zip(budgets, budgets[1:], steps, strict=False)
    ]
    beyond = budgets[-1] * np.geomspace(1, BEYOND, 3)[1:]
    return np.sort(np.concatenate([budgets, *between, beyond]))
