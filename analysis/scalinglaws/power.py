"""Planning: what a grid of budgets and seeds can tell apart, and which grid would suffice.

Two methods are compared by paired differences: the losses of the same budget and seed. Their noise
has the standard deviation sd sqrt(2 (1 - correlation)). Every test is a t test that estimates the
noise itself, so its power is that of the noncentral t distribution (Cohen 1988, chapter 2). The
level is shared by the methods that are compared to the reference: the first step of Holm's
procedure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import optimize, special

from scalinglaws.design import Design, Effect, Noise, assumed_curve
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit, tangents
from scalinglaws.laws import Floats

__all__ = [
    "Design",
    "Effect",
    "Noise",
    "assumed_curve",
    "design_warnings",
    "detectable",
    "expected_fit",
    "power",
    "power_of",
    "required",
]

#: What a selection experiment should tell apart by default: 0.01 nats, or 1.2 x tokens.
NATS, MULTIPLIER = 0.01, 1.2
ALL, ONE, CURVES = "all budgets", "one budget", "fitted curves"
_MOST_SEEDS = 50
_FARTHEST = np.log(1e6)


def power_of(scaled: float, degrees: float, level: float) -> float:
    """The power of a two-sided t test whose statistic has noncentrality ``scaled``."""
    if degrees < 1:
        return 0.0
    threshold = special.stdtrit(degrees, 1 - level / 2)
    right, left = (1 - special.nctdtr(degrees, side * scaled, threshold) for side in (1, -1))
    # Far from zero the side that the effect does not point to overflows; it is zero.
    return float(right + (left if np.isfinite(left) else 0.0))


def _needed(degrees: float, design: Design) -> float:
    """The noncentrality at which a test reaches the design's power."""
    if degrees < 1:
        return float("inf")
    high = 4.0
    while power_of(high, degrees, design.level) < design.power:
        high *= 2
    root = optimize.brentq(lambda s: power_of(s, degrees, design.level) - design.power, 0, high)
    return float(root)


@dataclass(frozen=True)
class _Test:
    """One comparison: standard error of a difference (of its length over budgets for ALL)."""

    name: str
    budget: float
    error: float
    degrees: int


def _tests(design: Design, noise: Noise, curve: Fit) -> list[_Test]:
    tokens, count = design.tokens, len(design.budgets)
    cell = noise.of_difference / np.sqrt(design.seeds)
    largest = float(tokens[-1])
    free = curve.free_parameters
    curves = [_Test(CURVES, largest, np.inf, 0)]
    if count >= curve.law.min_budgets:
        slopes = tangents(curve, curve.problem.x.at(tokens))
        # The variance of a fitted curve at a budget, in those of a cell, is its leverage.
        leverage = float((np.linalg.qr(slopes)[0][-1] ** 2).sum())
        curves = [_Test(CURVES, largest, cell * np.sqrt(leverage), count * design.seeds - free)]
    return [
        _Test(ALL, np.nan, cell, count * design.seeds - 1),
        *(_Test(ONE, float(budget), cell, count * (design.seeds - 1)) for budget in tokens),
        *curves,
    ]


def detectable(design: Design, noise: Noise, curve: Fit | None = None) -> pd.DataFrame:
    """The smallest difference that each comparison finds with the design's power.

    Columns comparison, budget, nats, multiplier. ``all budgets``: one shift in nats, or one
    multiplier, over the whole grid. ``one budget``: the paired differences there, their noise
    pooled over budgets. ``fitted curves``: two free curves at the largest budget. Infinite: it
    finds no difference of any size. curve: the reference's; default ``assumed_curve``.
    """
    curve = curve or assumed_curve(design.budgets)
    rows = []
    for test in _tests(design, noise, curve):
        whole = test.name == ALL
        length = test.error * _needed(test.degrees, design)
        nats = length / np.sqrt(len(design.budgets)) if whole else length
        tokens = design.tokens if whole else np.array([test.budget])
        rows.append((test.name, test.budget, nats, _multiplier(length, tokens, curve)))
    return pd.DataFrame(rows, columns=["comparison", "budget", "nats", "multiplier"])


def _multiplier(length: float, tokens: Floats, curve: Fit) -> float:
    """The multiplier whose differences over ``tokens`` have this length; infinite beyond 10^6."""

    def excess(log: float) -> float:
        shift = curve.predict(tokens) - curve.predict(tokens * np.exp(log))
        return float(np.linalg.norm(shift)) - length

    if not np.isfinite(length) or excess(_FARTHEST) < 0:
        return float("inf")
    return float(np.exp(optimize.brentq(excess, 0, _FARTHEST)))


def power(effect: Effect, design: Design, noise: Noise, curve: Fit | None = None) -> pd.DataFrame:
    """The chance that each comparison finds ``effect``: columns comparison, budget, nats, power."""
    curve = curve or assumed_curve(design.budgets)
    shift = dict(zip(design.tokens, effect.at(design.tokens, curve), strict=True))
    whole = float(np.linalg.norm(list(shift.values())))
    rows = []
    for test in _tests(design, noise, curve):
        nats = whole / np.sqrt(len(shift)) if test.name == ALL else shift[test.budget]
        size = whole if test.name == ALL else nats
        chance = power_of(float(size / test.error), test.degrees, design.level)
        rows.append((test.name, test.budget, nats, chance))
    return pd.DataFrame(rows, columns=["comparison", "budget", "nats", "power"])


def required(
    effect: Effect,
    noise: Noise,
    design: Design,
    curve: Fit | None = None,
    counts: Sequence[int] = (3, 4, 5, 6, 8),
    comparison: str = ALL,
) -> pd.DataFrame:
    """The fewest seeds for each number of budgets over the design's range, its own number included.

    At least two seeds, because one does not measure the noise. Columns budgets, seeds (0: more than
    50), cells, tokens (trained on in all cells), power. For ``one budget`` and ``fitted curves``
    the largest budget counts.
    """
    curve = curve or assumed_curve(design.budgets)
    tokens = design.tokens
    grids = {count: np.geomspace(tokens[0], tokens[-1], count) for count in counts}
    grids[len(tokens)] = tokens
    rows = []
    for count, budgets in sorted(grids.items()):
        if len(tokens) == 1 and count > 1:
            continue
        rows.append(
            (
                count,
                *_fewest(effect, noise, replace(design, budgets=tuple(budgets)), curve, comparison),
            )
        )
    return pd.DataFrame(rows, columns=["budgets", "seeds", "cells", "tokens", "power"])


def _fewest(
    effect: Effect, noise: Noise, design: Design, curve: Fit, comparison: str
) -> tuple[int, int, float, float]:
    chance = 0.0
    for seeds in range(2, _MOST_SEEDS + 1):
        table = power(effect, replace(design, seeds=seeds), noise, curve)
        chance = float(table[table["comparison"] == comparison]["power"].iloc[-1])
        if chance >= design.power:
            runs = seeds * design.methods
            return seeds, runs * len(design.budgets), runs * float(design.tokens.sum()), chance
    return 0, 0, float("nan"), chance


def expected_fit(design: Design, noise: Noise, curve: Fit | None = None) -> Fit:
    """The fit to expect of one method's cells: the width of its intervals, identified or not.

    The curve is fitted to its own values with residuals of exactly the stated sd that move no
    parameter; its profile intervals are the expected ones. Raises AnalysisError where the law needs
    more budgets.
    """
    curve = curve or assumed_curve(design.budgets)
    tokens = np.repeat(design.tokens, design.seeds)
    if design.seeds > 1:
        # Contrasts of seeds within a budget are orthogonal to every curve.
        pulls = (tokens[:, None] == design.tokens).astype(float)
    else:
        pulls = tangents(curve, curve.problem.x.at(tokens))
    free = np.linalg.qr(pulls, mode="complete")[0][:, pulls.shape[1] :].sum(axis=1)
    degrees = max(len(tokens) - curve.free_parameters, 0)
    length = float(np.linalg.norm(free))
    errors = free * (noise.sd * np.sqrt(degrees) / length if length > 0 else 0.0)
    return fit_law(curve.law, tokens, curve.predict(tokens) + errors, begin=curve.logs[None])


def design_warnings(
    design: Design, noise: Noise, curve: Fit | None = None, least: Sequence[Effect] | None = None
) -> list[str]:
    """Why the grid cannot answer its question: a sentence for each reason, with the remedy.

    Empty where it can. least: effects to tell apart; default 0.01 nats and 1.2 x tokens.
    """
    curve = curve or assumed_curve(design.budgets)
    said = [*_of_curve(design, noise, curve)]
    if design.seeds == 1:
        said.append("one seed a cell does not measure the noise: run 2 or more")
    if design.methods < 2:
        return said
    for effect in least or (Effect(NATS), Effect(multiplier=MULTIPLIER)):
        if power(effect, design, noise, curve)["power"].iloc[0] >= design.power:
            continue
        seeds = int(required(effect, noise, design, curve, counts=())["seeds"].iloc[0])
        way = f"{seeds} seeds are enough" if seeds else f"{_MOST_SEEDS} seeds are not enough either"
        said.append(f"a difference of {effect} would often be missed: {way}")
    return said


def _of_curve(design: Design, noise: Noise, curve: Fit) -> Iterator[str]:
    count, least = len(design.budgets), curve.law.min_budgets
    if count < least:
        budgets = "one budget" if count == 1 else f"{count} budgets"
        yield f"{budgets} cannot give a curve: the {curve.law.name} law needs {least} or more"
        return
    fit = expected_fit(design, noise, curve)
    span = f"budgets span {design.decades:.1f} decades"
    if not fit.identified:
        yield f"{span}, over which floor and exponent cannot be told apart: widen the range"
    elif design.decades < 1:
        low, high = fit.intervals["beta"]
        yield f"{span}, which leaves the exponent between {low:.2g} and {high:.2g}: widen the range"
