"""What looks wrong in a table of losses, although every row of it can be used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from scalinglaws.checks import CURVE, groups, present, value_text
from scalinglaws.laws import Floats

#: No model is this bad: a uniform guess over 4.8e8 tokens has 20 nats.
_MOST_NATS = 20.0
_BITS = 1 / np.log(2)
#: Relative difference within which two ratios are one.
_CLOSE = 0.02
#: Budgets of one sweep are not further apart than this, one from the next.
_GAP = 1000.0
_SHOWN = 3


def warnings_of(frame: pd.DataFrame) -> list[str]:
    """One sentence for each problem. ``frame`` is that of ``Losses``, with its ``budget``."""
    checks = (_single_budget, _rising, _unpaired, _perplexities, _units_of_loss, _units_of_tokens)
    return [line for check in checks for line in check(frame)]


def _single_budget(frame: pd.DataFrame) -> Iterator[str]:
    for method, part in frame.groupby("method", sort=False):
        if part["budget"].nunique() == 1:
            yield (
                f"{method} has one budget, {part['budget'].iloc[0]:,.0f} tokens; a curve needs "
                "more: run 2 more budgets"
            )


def _rising(frame: pd.DataFrame) -> Iterator[str]:
    for key, part in groups(frame, CURVE):
        means = part.groupby("budget")["loss"].mean()
        if len(means) > 1 and means.iloc[-1] > means.iloc[0]:
            yield (
                f"{_said(key)}: the loss at {means.index[-1]:,.0f} tokens, {means.iloc[-1]:.4g}, "
                f"is above that at {means.index[0]:,.0f}, {means.iloc[0]:.4g}; no falling law "
                "fits it"
            )


def _said(key: object) -> str:
    values = key if isinstance(key, tuple) else (key,)
    return ", ".join(value_text(v) for v in values if pd.notna(v))


def _unpaired(frame: pd.DataFrame) -> Iterator[str]:
    """Cells that one method has and another lacks; comparisons pair the rest."""
    names = present(frame, ("budget", "seed", "model_size", "domain"))
    # NaN is not equal to itself: two of them would not be one cell.
    known = frame[names].astype(object).where(frame[names].notna(), None)
    cells = pd.Series(list(known.itertuples(index=False, name=None)), frame.index)
    every = list(dict.fromkeys(cells))
    lacking = [
        f"{method} has none at " + ", ".join(_cell(n, v) for n, v in zip(names, cell, strict=True))
        for method, own in cells.groupby(frame["method"], sort=False).agg(set).items()
        for cell in every
        if cell not in own
    ]
    if lacking:
        more = f"; and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        yield (
            f"the methods do not have the same cells ({'; '.join(lacking[:_SHOWN])}{more}); "
            "paired comparisons use those that both have: run the missing ones"
        )


def _cell(name: str, value: object) -> str:
    text = value_text(value)
    return f"{text} tokens" if name == "budget" else f"{name.replace('_', ' ')} {text}"


def _perplexities(frame: pd.DataFrame) -> Iterator[str]:
    for method, part in frame.groupby("method", sort=False):
        middle = part["loss"].median()
        if middle > _MOST_NATS:
            yield (
                f"{method} has losses about {middle:.4g}, more than any model's nats a token; are "
                "they perplexities? Give their natural logarithms"
            )


def _units_of_loss(frame: pd.DataFrame) -> Iterator[str]:
    """Two methods that differ as bits do from nats, or perplexities, at every common budget."""
    for a, b, low, high in _matched(frame):
        if _all_close(high / low, _BITS):
            yield (
                f"the losses of {b} are {np.median(high / low):.3f} times those of {a} at every "
                "budget, the ratio of bits to nats (1.443); give all in nats a token"
            )
        elif (
            np.median(high) <= _MOST_NATS
            and (high > 2 * low).all()
            and _all_close(np.log(high) / low, 1, 5 * _CLOSE)
        ):
            yield (
                f"the losses of {b} are about the exponentials of those of {a} at every budget; "
                "are they perplexities? Give all in nats a token"
            )


def _matched(
    frame: pd.DataFrame,
) -> Iterator[tuple[str, str, Floats, Floats]]:
    """Pairs of methods and their median losses where both have some; the lower ones first."""
    keys = present(frame, ("budget", "model_size", "domain"))
    medians = frame.groupby([*keys, "method"], dropna=False)["loss"].median().unstack("method")
    for pair in itertools.combinations(dict.fromkeys(frame["method"]), 2):
        both = medians[list(pair)].dropna()
        if not both.empty:
            a, b = sorted(pair, key=lambda method: both[method].median())
            yield a, b, both[a].to_numpy(), both[b].to_numpy()


def _all_close(values: Floats, target: float, within: float = _CLOSE) -> bool:
    return bool((np.abs(values / target - 1) <= within).all())


def _units_of_tokens(frame: pd.DataFrame) -> Iterator[str]:
    levels = {
        method: np.unique(part["budget"]) for method, part in frame.groupby("method", sort=False)
    }
    for method, own in levels.items():
        gaps = own[1:] / own[:-1]
        if len(gaps) and gaps.max() >= _GAP:
            place = int(gaps.argmax())
            yield (
                f"{method} jumps from {own[place]:,.0f} to {own[place + 1]:,.0f} tokens; are some "
                "counts in thousands or millions? Write 64k or 1.5M, or tokens throughout"
            )
    for a, b in itertools.combinations(levels, 2):
        (low, small), (high, large) = sorted(
            ((m, levels[m]) for m in (a, b)), key=lambda item: float(item[1].max())
        )
        if small.max() < large.min() and large.max() / small.max() >= _GAP * (1 - _CLOSE):
            yield (
                f"the budgets of {high} ({large.min():,.0f} to {large.max():,.0f}) are "
                f"{large.max() / small.max():,.0f} times those of {low} ({small.min():,.0f} to "
                f"{small.max():,.0f}); are counts in thousands or millions? Write 64k or 1.5M, "
                "or tokens throughout"
            )
