"""Budgets at which the curves of two methods cross."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from scalinglaws.compare.curves import BEYOND, Curves, interval
from scalinglaws.laws import Floats, Mask
from scalinglaws.tables import tokens_text

CROSSOVERS = ["method_a", "method_b", "tokens", "ci_low", "ci_high", "share", "verdict"]
_STEPS = 200
#: Relative to the loss, curves that lie closer than this everywhere are the same.
_SAME = 1e-9
#: Share of draws that cross from which a verdict of no crossing is open.
_OPEN = 0.05
_UNSURE = "the fits go through all points and cannot tell how certain that is"


@dataclass(frozen=True)
class Gap:
    """The loss of a less that of b: the fit in row 0, then the draws [1 + R, K], at tokens [K]."""

    tokens: Floats
    values: Floats

    @property
    def crossings(self) -> Mask:
        """Whether each row [1 + R, K - 1] changes its sign in each step."""
        above = self.values > 0
        changed: Mask = above[:, 1:] != above[:, :-1]
        return changed

    def places(self) -> Floats:
        """Tokens [1 + R, K - 1] of the zero in each step, by the line through its ends."""
        before, after = self.values[:, :-1], self.values[:, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(before / (before - after), 0, 1)
        logs = np.log(self.tokens)
        return np.asarray(np.exp(logs[:-1] + share * np.diff(logs)))

    def near(self, tokens: float, rising: bool) -> Floats:
        """Each draw's crossing [R] of the same direction that is nearest to ``tokens``.

        A draw without one crosses beyond the range: 0 where it has crossed before, else infinite.
        """
        ahead = self.values[1:, 1:] > 0
        right = self.crossings[1:] & (ahead == rising)
        places = np.where(right, self.places()[1:], np.inf)
        far = np.where(right, np.abs(np.log(np.where(right, places, 1.0) / tokens)), np.inf)
        found = np.take_along_axis(places, far.argmin(axis=1)[:, None], axis=1)[:, 0]
        past = (self.values[1:, 0] > 0) == rising
        return np.where(right.any(axis=1), found, np.where(past, 0.0, np.inf))


def crossovers(curves: Mapping[str, Curves]) -> pd.DataFrame:
    """One row per crossing of a pair, from the budgets that both have to 4 times the largest.

    The interval is from paired draws; an end outside that range is 0 or infinite. share: of draws
    that cross in it. Without a crossing, tokens are NaN and ``verdict`` says so.
    """
    rows = [
        row
        for (a, first), (b, second) in combinations(curves.items(), 2)
        for row in _rows(a, first, b, second)
    ]
    return pd.DataFrame(rows, columns=CROSSOVERS)


def _rows(a: str, first: Curves, b: str, second: Curves) -> Iterator[list[object]]:
    low, high = max(first.low, second.low), min(first.high, second.high)
    if low >= high:
        none = f"{a} and {b} share no range of budgets in which they could cross."
        yield [a, b, np.nan, np.nan, np.nan, np.nan, none]
        return
    tokens = np.geomspace(low, high * BEYOND, _STEPS)
    levels = second.losses(tokens)
    gap = Gap(tokens, first.losses(tokens) - levels)
    between = f"between {tokens_text(low)} and {tokens_text(tokens[-1])} tokens"
    if np.abs(gap.values[0]).max() < _SAME * levels[0].max():
        yield [a, b, np.nan, np.nan, np.nan, np.nan, f"The curves of {a} and {b} are the same."]
        return
    known = min(first.fit.degrees, second.fit.degrees) > 0
    share = float(gap.crossings[1:].any(axis=1).mean()) if known else np.nan
    steps = np.flatnonzero(gap.crossings[0])
    if not len(steps):
        lower = a if gap.values[0, 0] < 0 else b
        text = f"{a} and {b} do not cross {between}: {lower} is lower throughout{_share(share)}."
        yield [a, b, np.nan, np.nan, np.nan, share, text]
        return
    for step in steps:
        at, rising = float(gap.places()[0, step]), bool(gap.values[0, step + 1] > 0)
        ends = [
            float(end[0]) for end in interval(gap.near(at, rising)[:, None], first.fit, second.fit)
        ]
        before, after = (a, b) if rising else (b, a)
        sure = f"{_percent(share)} of draws cross {between}" if known else _UNSURE
        beyond = "; this lies beyond the measured budgets" if at > high else ""
        text = (
            f"{a} and {b} cross at {tokens_text(at)} tokens{_ends(*ends)}, with {before} lower "
            f"before and {after} after; {sure}{beyond}."
        )
        yield [a, b, at, *ends, share, text]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(share: float) -> str:
    """The text after a verdict of no crossing."""
    if np.isnan(share):
        return f"; {_UNSURE}"
    if share == 0:
        return ""
    return f"; {_percent(share)} of draws cross there{', so this is open' * (share > _OPEN)}"


def _ends(low: float, high: float) -> str:
    if np.isnan(low):
        return ""
    if low <= 0 and np.isinf(high):
        return " (95 % CI open on both sides: it may lie outside the range)"
    first = "open below" if low <= 0 else f"from {tokens_text(low)}"
    return f" (95 % CI {first}, {'open above' if np.isinf(high) else f'to {tokens_text(high)}'})"
