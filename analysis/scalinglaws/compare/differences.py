"""Differences of mean losses at each budget, in pairs of runs with the same seed where they exist.

Few seeds say little about the noise. The variance is therefore pooled over budgets, unless
Bartlett's test rejects equal variances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scalinglaws.compare.holm import holm
from scalinglaws.laws import Floats

DIFFERENCES = "method reference budget difference ci_low ci_high p p_holm pairs paired".split()
#: Level of Bartlett's test, and of the intervals.
_LEVEL = 0.05
#: Nats; less than this is rounding, not noise.
_ROUNDING = 1e-12


class Cell(NamedTuple):
    """Mean of the runs at a budget, their number, the variance of one run, and its degrees."""

    mean: float
    runs: int
    variance: float
    degrees: float

    @property
    def error(self) -> float:
        """Squared standard error of the mean."""
        return self.variance / self.runs


@dataclass(frozen=True)
class Spread:
    """Cells by budget; bartlett: p of equal variances; pooled: whether the variances are."""

    by_budget: dict[float, Cell]
    bartlett: float
    pooled: bool


def spread(budgets: Floats, cells: Floats, values: Floats) -> Spread:
    """The spread of values [n] at budgets [n], within the ``cells`` [n] of a budget."""
    _, place = np.unique(cells, return_inverse=True)
    counts = np.bincount(place)
    apart = values - (np.bincount(place, values) / counts)[place]
    at = {budget: budgets == budget for budget in np.unique(budgets)}
    degrees = {b: int(here.sum()) - len(np.unique(place[here])) for b, here in at.items()}
    squares = {b: float((apart[here] ** 2).sum()) for b, here in at.items()}
    samples = [apart[here] for b, here in at.items() if degrees[b] > 0 and squares[b] > 0]
    with np.errstate(all="ignore"):
        bartlett = float(stats.bartlett(*samples).pvalue) if len(samples) > 1 else np.nan
    pooled = not bartlett < _LEVEL
    total, summed = sum(degrees.values()), sum(squares.values())
    found = {}
    for budget, here in at.items():
        own, over = (total, summed) if pooled else (degrees[budget], squares[budget])
        variance = over / own if own else np.nan
        mean = float(values[here].mean())
        found[float(budget)] = Cell(mean, int(here.sum()), variance, float(own))
    return Spread(found, bartlett, pooled)


@dataclass(frozen=True)
class Contrast:
    """One method against another: their paired runs, and the runs of each."""

    paired: Spread | None
    first: Spread
    second: Spread

    def rows(self) -> Iterator[list[object]]:
        """Budget, difference, ends of its interval, p, pairs and paired, for each common budget."""
        for budget in self.first.by_budget:
            if self.paired is not None and budget in self.paired.by_budget:
                cell = self.paired.by_budget[budget]
                yield [budget, *_t_test(cell.mean, cell.error, cell.degrees), cell.runs, True]
            elif budget in self.second.by_budget:
                first, second = self.first.by_budget[budget], self.second.by_budget[budget]
                yield [budget, *_welch(first, second), 0, False]


def _welch(first: Cell, second: Cell) -> list[float]:
    """The t test of two means, with Welch and Satterthwaite's degrees."""
    errors, degrees = np.array([[c.error, c.degrees] for c in (first, second)]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = errors.sum() ** 2 / (errors**2 / degrees).sum()
    return _t_test(first.mean - second.mean, errors.sum(), joint)


def _t_test(mean: float, error: float, degrees: float) -> list[float]:
    """Mean, interval, p, of a mean with squared standard error ``error``.

    Runs that do not differ at all measure no noise: only a difference of 0 then has a p value.
    """
    silent = error <= _ROUNDING**2
    if silent and abs(mean) <= _ROUNDING:
        return [mean, mean, mean, 1.0]
    if silent or not (error > 0 and degrees > 0):
        return [mean, np.nan, np.nan, np.nan]
    scale = np.sqrt(error)
    half = stats.t.ppf(1 - _LEVEL / 2, degrees) * scale
    return [mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / scale, degrees))]


def contrast(frame: pd.DataFrame, method: str, reference: str) -> Contrast:
    """The contrast of two methods; ``frame`` has method, budget, loss, perhaps seed, model_size."""
    first, second = (frame[frame["method"] == name] for name in (method, reference))
    return Contrast(_paired(first, second), _alone(first), _alone(second))


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> Spread | None:
    if "seed" not in first:
        return None
    keys = [key for key in ("budget", "model_size", "seed") if key in first]
    if first[keys].duplicated().any() or second[keys].duplicated().any():
        return None
    both = first[first["seed"].notna()].merge(second, on=keys, suffixes=("", "_second"))
    if both.empty:
        return None
    return _alone(both.assign(loss=both["loss"] - both["loss_second"]))


def _alone(part: pd.DataFrame) -> Spread:
    budgets = part["budget"].to_numpy(float)
    cells = budgets
    if "model_size" in part:
        cells = part.groupby(["budget", "model_size"], dropna=False).ngroup().to_numpy(float)
    return spread(budgets, cells, part["loss"].to_numpy(float))


def contrasts(frame: pd.DataFrame, reference: str) -> dict[str, Contrast]:
    """The contrast of every other method with the reference, in the frame's order."""
    methods = dict.fromkeys(frame["method"])
    return {m: contrast(frame, m, reference) for m in methods if m != reference}


def differences(against: dict[str, Contrast], reference: str) -> pd.DataFrame:
    """Method less reference in nats a token, 95 % t interval, p, Holm's p over all rows.

    pairs: runs with a common seed; without any, the test is Welch's and ``paired`` is False. A
    single pair or run without a pooled variance has no interval.
    """
    rows = [[method, reference, *row] for method, each in against.items() for row in each.rows()]
    columns = [name for name in DIFFERENCES if name != "p_holm"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(DIFFERENCES.index("p_holm"), "p_holm", holm(frame["p"]))
    return frame
