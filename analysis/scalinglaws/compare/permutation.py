"""Exact tests of the hypothesis that a method's name does not matter: names are exchanged.

Names are exchanged within a block: the runs of one budget and seed where methods share seeds, else
those of one budget. The test assumes nothing about the noise, so few runs can show little: the
smallest p value that the design can give is reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalinglaws.compare.holm import holm
from scalinglaws.compare.nested import ALL, ONE, groups_of
from scalinglaws.fitted import Fit, tangents
from scalinglaws.laws import Floats
from scalinglaws.study import Study

PERMUTATION = ["methods", "statistic", "p", "p_holm", "least_p", "arrangements", "exact"]
#: Up to this many arrangements are all tried; of more, this many are drawn.
_ALL, _DRAWS = 2**14, 10_000

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Arrangements:
    """labels [R, n]: the method of each run; the actual one is the first row of drawn ones. count:
    how many arrangements exist; exact: whether all are here; least_p: the smallest possible p.
    """

    labels: Labels
    count: float
    exact: bool
    least_p: float


def arrange(labels: Labels, blocks: Labels, seed: int = 0) -> Arrangements:
    """All exchanges of labels [n] within blocks [n], or 10,000 drawn ones."""
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    members = [own for own in members if len(np.unique(labels[own])) > 1]
    count = math.prod(_exchanges(labels[own]) for own in members)
    exact = count <= _ALL
    rows = _every(labels, members) if exact else _drawn(labels, members, seed)
    # Names that are exchanged everywhere give the same statistic.
    methods = len(np.unique(labels))
    balanced = all(len(set(np.bincount(labels[own], minlength=methods))) == 1 for own in members)
    least = min(1.0, (math.factorial(methods) if balanced else 1) / count)
    return Arrangements(rows, float(count), exact, least if exact else max(least, 1 / (1 + _DRAWS)))


def _exchanges(labels: Labels) -> int:
    return math.factorial(len(labels)) // math.prod(
        math.factorial(int(number)) for number in np.bincount(labels)
    )


def _every(labels: Labels, members: list[Labels]) -> Labels:
    ways = [np.array(list(_ways(labels[own]))) for own in members]
    chosen = np.array(list(itertools.product(*(range(len(way)) for way in ways))), np.int64)
    rows = np.repeat(labels[None], len(chosen), axis=0)
    for own, way, pick in zip(members, ways, chosen.T, strict=True):
        rows[:, own] = way[pick]
    return rows


def _ways(labels: Labels) -> Iterator[Labels]:
    """Every distinct order of labels [n], once."""
    first, *others = np.unique(labels)
    if not others:
        yield labels
        return
    rest = labels[labels != first]
    for places in itertools.combinations(range(len(labels)), len(labels) - len(rest)):
        left = np.setdiff1d(np.arange(len(labels)), places)
        for way in _ways(rest):
            whole = np.full(len(labels), first)
            whole[left] = way
            yield whole


def _drawn(labels: Labels, members: list[Labels], seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    rows = np.repeat(labels[None], _DRAWS + 1, axis=0)
    for own in members:
        rows[1:, own] = rng.permuted(rows[1:, own], axis=1)
    return rows


def p_value(statistic: Floats, actual: float, exact: bool) -> float:
    """Share of arrangements [R] whose statistic is as large; ties up to rounding count.

    The actual arrangement is among them.
    """
    reached = statistic >= actual - 1e-9 * max(abs(actual), 1e-300)
    return float(reached.mean()) if exact else float((1 + reached[1:].sum()) / len(statistic))


def mean_spread(values: Floats, labels: Labels, blocks: Labels) -> Floats:
    """Spread [R] of the methods' mean losses, each less its block's: by labels [R, n]."""
    _, place = np.unique(blocks, return_inverse=True)
    apart = values - (np.bincount(place, values) / np.bincount(place))[place]
    total = np.zeros(len(labels))
    for method in np.unique(labels[0]):
        mine = labels == method
        total += (mine @ apart) ** 2 / mine.sum(axis=1)
    return total


def curve_gain(one: Fit, labels: Labels) -> Floats:
    """By how much [R] a curve for each method lowers the sum of squares, to first order.

    These are the residuals' projections on each method's tangents.
    """
    problem = one.problem
    scale = np.ones(one.points) if problem.weights is None else np.sqrt(problem.weights)
    slopes = tangents(one, problem.x) * scale[:, None]
    slopes, _ = np.linalg.qr(slopes)
    pull = slopes * (scale * (problem.losses - one.predict(problem.x)))[:, None]
    products = (slopes[:, :, None] * slopes[:, None, :]).reshape(len(slopes), -1)
    size = slopes.shape[1]
    total = np.zeros(len(labels))
    for method in np.unique(labels[0]):
        mine = (labels == method).astype(float)
        along = mine @ pull
        normal = (mine @ products).reshape(-1, size, size) + 1e-12 * np.eye(size)
        moved = np.linalg.solve(normal, along[..., None])[..., 0]
        total += np.einsum("rk,rk->r", along, moved)
    return total


def permutation(study: Study, fits: Mapping[str, Mapping[str, Fit]]) -> pd.DataFrame:
    """Tests of ``joint_fits``: of the mean losses, and of the curves.

    statistic: ``mean loss`` or ``curve``. least_p: the least p value that the design can give.
    """
    frame = pd.DataFrame(list(_rows(study, fits)), columns=PERMUTATION)
    pairs = frame["methods"] != ALL
    for _, part in frame[pairs].groupby("statistic"):
        frame.loc[part.index, "p_holm"] = holm(part["p"])
    return frame


def _rows(study: Study, fits: Mapping[str, Mapping[str, Fit]]) -> Iterator[list[object]]:
    for name, methods in groups_of(study.methods).items():
        parts = pd.concat([study.part(method) for method in methods])
        places = {method: place for place, method in enumerate(methods)}
        labels = np.asarray(parts["method"].map(places), np.int64)
        blocks = _blocks(parts)
        found = arrange(labels, blocks, study.seed)
        tests = {"mean loss": mean_spread(parts["loss"].to_numpy(float), found.labels, blocks)}
        if name in fits and len(fits[name][ONE].problem.x) == len(parts):
            tests["curve"] = curve_gain(fits[name][ONE], found.labels)
        actual = np.flatnonzero((found.labels == labels).all(axis=1))[0]
        for statistic, values in tests.items():
            p = p_value(values, float(values[actual]), found.exact)
            yield [name, statistic, p, p, found.least_p, found.count, found.exact]


def _blocks(frame: pd.DataFrame) -> Labels:
    """Each run's block [n]: its budget and seed, or its budget where it has no seed twice."""
    keys = [key for key in ("budget", "model_size") if key in frame]
    if "seed" in frame:
        twice = frame["seed"].notna() & frame.duplicated([*keys, "seed"], keep=False)
        shared = twice.groupby([frame[key] for key in keys], dropna=False).transform("any")
        frame = frame.assign(seed=frame["seed"].where(shared, -1))
        keys.append("seed")
    return np.asarray(frame.groupby(keys, dropna=False).ngroup(), np.int64)
