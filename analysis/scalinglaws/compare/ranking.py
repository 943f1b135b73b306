"""How well a small budget predicts the order of methods at the largest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import DRAWS, quantiles
from scalinglaws.compare.differences import contrast
from scalinglaws.laws import Floats

RANKING = ["budget", "largest", "pairs", "agreeing", "accuracy", "ci_low", "ci_high"]


def ranking(frame: pd.DataFrame, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Share of pairs of methods whose mean losses have the same order as at the largest budget.

    Pairs whose order at the largest budget is within the noise (the 95 % interval of
    ``differences`` holds zero) do not count. The interval is of seeds resampled within each budget,
    the same for all methods where they share them; with few seeds it is too narrow, and one seed
    gives none.
    """
    table = frame.groupby(["budget", "method"], sort=True)["loss"].mean().unstack("method")
    table = table.dropna(thresh=2)
    if len(table) < 2:
        return pd.DataFrame(columns=RANKING)
    largest = float(table.index[-1])
    pairs = _settled(frame, largest, list(table.columns[table.loc[largest].notna()]))
    methods = list(table.columns)
    rng = np.random.default_rng(seed)
    last = _resampled(frame, largest, methods, draws, rng)
    rows = []
    for budget in table.index[:-1]:
        known = [(a, b) for a, b in pairs if table.loc[budget, [a, b]].notna().all()]
        if not known:
            rows.append([float(budget), largest, 0, 0, np.nan, np.nan, np.nan])
            continue
        means = table.loc[[budget, largest]].to_numpy(float)
        agreeing = int(_agree(means[:1], means[1:], methods, known)[0])
        drawn = _agree(_resampled(frame, budget, methods, draws, rng), last, methods, known)
        low, high = quantiles(drawn / len(known))
        one_seed = frame[frame["budget"].isin([budget, largest])].groupby(["method", "budget"])
        ends = [np.nan, np.nan] if one_seed.size().min() < 2 else [float(low), float(high)]
        rows.append([float(budget), largest, len(known), agreeing, agreeing / len(known), *ends])
    return pd.DataFrame(rows, columns=RANKING)


def _settled(frame: pd.DataFrame, largest: float, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs that differ by more than noise at the largest budget; all where noise is unknown."""
    found = []
    for a, b in combinations(methods, 2):
        row = next(row for row in contrast(frame, a, b).rows() if row[0] == largest)
        _, difference, low, high, *_ = map(float, row)  # type: ignore[arg-type]
        if difference != 0 and not low <= 0 <= high:
            found.append((a, b))
    return found


def _agree(
    first: Floats, second: Floats, methods: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Floats:
    """How many pairs [R] have the same order in two rows of means [R, methods]."""
    places = np.array([[methods.index(a), methods.index(b)] for a, b in pairs])
    ways = [np.sign(means[:, places[:, 0]] - means[:, places[:, 1]]) for means in (first, second)]
    return np.asarray((ways[0] == ways[1]).sum(axis=1), float)


def _resampled(
    frame: pd.DataFrame, budget: float, methods: Sequence[str], draws: int, rng: np.random.Generator
) -> Floats:
    """Mean losses [R, methods] over seeds drawn with replacement; NaN where a method has none."""
    part = frame[frame["budget"] == budget]
    if "seed" in part and not part[["method", "seed"]].duplicated().any():
        table = part.pivot(index="method", columns="seed", values="loss").reindex(methods)
        present = table.dropna(how="all")
        if present.notna().all(axis=None):
            count = table.shape[1]
            weights = rng.multinomial(count, np.full(count, 1 / count), size=draws) / count
            return np.asarray(weights @ table.to_numpy(float).T)
    means = np.full((draws, len(methods)), np.nan)
    for place, method in enumerate(methods):
        own = part.loc[part["method"] == method, "loss"].to_numpy(float)
        if len(own):
            means[:, place] = own[rng.integers(len(own), size=(draws, len(own)))].mean(axis=1)
    return means
