"""Areas under the ROC curve, rank correlations and means, each with a 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcscale.types import Floats

DRAWS = 2000
_SIDES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(high: Floats, low: Floats, *, paired: bool = False, seed: int = 0) -> Interval:
    """The probability that one of ``high`` [m] has a larger score than one of ``low`` [n].

    Ties count one half. The interval is a percentile bootstrap over both sides; ``paired``: high[i]
    and low[i] come from the same document and are drawn together.
    """
    wins = (high[:, None] > low).astype(np.float64) + 0.5 * (high[:, None] == low)
    rng = np.random.default_rng(seed)
    ours = _counts(rng, len(high))
    theirs = ours if paired else _counts(rng, len(low))
    draws = ((ours @ wins) * theirs).sum(1) / (len(high) * len(low))
    return _interval(float(wins.mean()), draws)


def _counts(rng: np.random.Generator, size: int) -> Floats:
    """How often each of ``size`` items occurs in each bootstrap draw, [draws, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), DRAWS).astype(np.float64)


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.percentile(draws, _SIDES)
    return Interval(value, float(low), float(high))


def spearman_rows(left: Floats, right: Floats) -> Floats:
    """Spearman's correlation of each row of ``left`` with that of ``right``, [rows]; 0 where one
    of them is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=1) for side in (left, right))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    sizes = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found: Floats = (a * b).sum(1) / np.where(sizes > 0, sizes, np.inf)
    return found


def mean_spearman(left: Floats, right: Floats, *, draws: int = 1000, seed: int = 0) -> Correlation:
    """The mean over rows of Spearman's correlation, both of shape [rows, columns].

    Bootstrapped over rows, and over rows and columns together. Calls with equal seeds use equal
    draws, so that these may be subtracted.
    """
    rng = np.random.default_rng(seed)
    per_row = spearman_rows(left, right)
    rows, columns = left.shape
    by_rows, by_both = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        some = rng.integers(0, rows, rows)
        by_rows[draw] = per_row[some].mean()
        others = rng.integers(0, columns, columns)
        by_both[draw] = spearman_rows(left[some][:, others], right[some][:, others]).mean()
    value = float(per_row.mean())
    return Correlation(per_row, _interval(value, by_rows), _interval(value, by_both), by_both)


@dataclass(frozen=True)
class Correlation:
    """``per_row``: float64 [rows]. ``over_rows``: bootstrap over rows. ``over_both``: over rows
    and columns, from ``draws``."""

    per_row: Floats
    over_rows: Interval
    over_both: Interval
    draws: Floats

    def above(self, other: Correlation) -> Interval:
        """The difference to ``other`` of the same table, by a paired bootstrap."""
        difference = self.over_both.value - other.over_both.value
        return _interval(difference, self.draws - other.draws)


def mean_interval(values: Floats) -> Interval:
    """The mean with Student's interval; NaN ends for fewer than two values."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's correlation of two vectors of equal length; 0 where one of them is constant."""
    pair: list[Any] = [np.asarray(side, dtype=np.float64)[None] for side in (left, right)]
    return float(spearman_rows(*pair)[0])
