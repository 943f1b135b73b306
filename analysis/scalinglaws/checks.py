"""Rows of a table of losses that cannot be used, each with the reason.

A check takes the rows that earlier checks kept. Their columns are those that ``read_losses`` knows;
``where``, the place of a row in the user's table; and ``given_tokens`` and ``given_loss``, the
values as the user wrote them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from scalinglaws.laws import Floats

#: What makes one cell, with its loss.
CELL = ("method", "tokens", "seed", "model_size", "domain")
#: Rows that agree in these are points of one curve.
CURVE = ("method", "model_size", "domain")
#: Token counts this close, relatively, are one budget.
SAME_BUDGET = 0.005
#: A cell is diverged where its loss is this far, relatively, above its neighbours and seeds ...
_FAR = 0.05
#: ... and this many standard deviations of seeds (1.4826 times the median absolute deviation).
_DEVIATIONS = 10.0
#: How far a cell without other seeds may be above its neighbours: real losses off the training
#: domain jump by a fifth (Gadre et al. 2024, code after C4).
_FAR_ALONE = 0.25
#: What the loss may rise from the second smallest budget to the smallest, in steps of the next.
_STEEPEST = 4.0
_SHOWN = 3


@dataclass(frozen=True)
class Fault:
    """Rows to leave out, by index, with the reason; what they have in common, and the remedy."""

    what: str
    remedy: str
    reasons: dict[int, str] = field(default_factory=dict)

    def warning(self, frame: pd.DataFrame) -> str:
        """One sentence about all of them, which names the first few."""
        shown = [
            f"{name_of(frame.loc[index])}: {reason}"
            for index, reason in list(self.reasons.items())[:_SHOWN]
        ]
        more = len(self.reasons) - len(shown)
        listed = "; ".join(shown) + (f"; and {more} more" if more else "")
        rows = "1 row" if len(self.reasons) == 1 else f"{len(self.reasons)} rows"
        return f"left out {rows} {self.what} ({listed}); {self.remedy}"


def name_of(row: pd.Series) -> str:
    """``line 7, random at 64,000 tokens, seed 1``."""
    parts = [str(row["where"]), str(row["method"])]
    if np.isfinite(row["tokens"]):
        parts[-1] += f" at {row['tokens']:,.0f} tokens"
    for name in ("model_size", "domain", "seed"):
        if name in row and pd.notna(row[name]):
            parts.append(f"{name.replace('_', ' ')} {value_text(row[name])}")
    return ", ".join(parts)


def value_text(value: object) -> str:
    """``1`` of 1.0, and ``124,439,808``."""
    return f"{value:,.12g}" if isinstance(value, float) else str(value)


def present(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in frame]


def groups(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Hashable, pd.DataFrame]]:
    """Parts of ``frame`` in the order of the table; a missing value is a value."""
    yield from frame.groupby(present(frame, names), sort=False, dropna=False)


def incomplete(frame: pd.DataFrame) -> Fault:
    """Rows without a method, a count of tokens, or a finite loss."""
    reasons = dict.fromkeys(frame.index[frame["method"] == ""], "it names no method")
    for name, problem in (("tokens", "is not a count"), ("loss", "is not a loss: diverged?")):
        bad = frame[~np.isfinite(frame[name])]
        reasons |= {index: f"`{given}` {problem}" for index, given in bad[f"given_{name}"].items()}
    return Fault(
        "without a method, a count of tokens or a finite loss",
        "fill them in, or run the cells again",
        reasons,
    )


def not_positive(frame: pd.DataFrame) -> Fault:
    """Rows with a loss or tokens of 0 or less, which a power law cannot have."""
    reasons = {
        index: f"{name} is {value:g}"
        for name in ("tokens", "loss")
        for index, value in frame[name][frame[name] <= 0].items()
    }
    return Fault("with a loss or tokens of 0 or less", "give nats a token and tokens", reasons)


def more_unique_than_total(frame: pd.DataFrame) -> Fault:
    """Rows that claim more unique tokens than they trained on."""
    if "unique_tokens" not in frame:
        return Fault("", "")
    more = frame["unique_tokens"] > frame["tokens"] * (1 + SAME_BUDGET)
    fewer = frame["unique_tokens"] < frame["tokens"] * (1 - SAME_BUDGET)
    reasons = {
        index: f"{row['unique_tokens']:,.0f} unique tokens of {row['tokens']:,.0f}"
        for index, row in frame[more].iterrows()
    }
    swapped = (
        "no row has fewer unique tokens, so the two columns look swapped: exchange them with "
        "--columns tokens=unique_tokens,unique_tokens=tokens"
    )
    return Fault(
        "with more unique tokens than tokens",
        "correct one of the two" if fewer.any() else swapped,
        reasons,
    )


def repeated(frame: pd.DataFrame) -> Fault:
    """Rows that repeat an earlier row, with the same loss."""
    reasons = {
        index: f"the same as {part['where'].iloc[0]}"
        for part in _copies(frame)
        for index in part.index[1:]
        if part["loss"].nunique() == 1
    }
    return Fault("that repeat an earlier row", "the first of each was kept", reasons)


def conflicting(frame: pd.DataFrame) -> Fault:
    """Cells that occur more than once, with different losses: none is known to be right."""
    reasons: dict[int, str] = {}
    for part in _copies(frame):
        if part["loss"].nunique() > 1:
            values = ", ".join(
                f"{loss:.6g} ({where})"
                for loss, where in zip(part["loss"], part["where"], strict=True)
            )
            reasons |= dict.fromkeys(part.index, f"one cell with the losses {values}")
    return Fault(
        "of cells with more than one loss",
        "keep the right one of each, or give each repeat its own seed",
        reasons,
    )


def _copies(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows of one cell where there are several; rows without a seed are repeats, not copies."""
    if "seed" not in frame:
        return
    for _, part in groups(frame[frame["seed"].notna()], CELL):
        if len(part) > 1:
            yield part


def diverged(frame: pd.DataFrame) -> Fault:
    """Cells far above both the other seeds of their budget and the budgets beside it.

    Far means by 5 % and by 10 robust standard deviations of seeds, or by 25 % for a cell that is
    the only seed. Only a cell that stands out from an otherwise falling curve is left out: a loss
    that rises with tokens is a result.
    """
    frame = frame.assign(budget=budgets(frame["tokens"]))
    far = max(_FAR, _DEVIATIONS * _seed_deviation(frame))
    reasons = {
        index: f"the loss {loss:.4g} is {loss / expected - 1:.0%} above the {expected:.4g} of its "
        "seeds and neighbours"
        for _, curve in groups(frame, CURVE)
        for index, loss, expected, tolerance in _expected(curve, far)
        if loss > expected * (1 + tolerance)
    }
    return Fault(
        "that look diverged",
        "run the cells again, or keep them with keep_outliers=True",
        reasons,
    )


def _seed_deviation(frame: pd.DataFrame) -> float:
    """Relative, robust, of losses about the median of their budget; 0 without repeats."""
    names = [*present(frame, CURVE), "budget"]
    cells = frame.groupby(names, dropna=False)["loss"]
    several = cells.transform("size") > 1
    apart = (frame["loss"] / cells.transform("median") - 1)[several].abs()
    return 0.0 if apart.empty else 1.4826 * float(apart.median())


def _expected(curve: pd.DataFrame, far: float) -> Iterator[tuple[int, float, float, float]]:
    """Index and loss of each cell, the most that its seeds and neighbours expect, a tolerance.

    The expectation is NaN where they say nothing.
    """
    cells = curve.groupby("budget")["loss"]
    medians = cells.median()
    beside = _beside(np.log(medians.index.to_numpy()), medians.to_numpy())
    for (_, losses), of_neighbours in zip(cells, beside, strict=True):
        for place, (index, loss) in enumerate(losses.items()):
            others = np.delete(losses.to_numpy(), place)
            if len(others):
                yield index, loss, float(np.fmax(np.median(others), of_neighbours)), far
            else:
                yield index, loss, float(of_neighbours), _FAR_ALONE


def _beside(x: Floats, y: Floats) -> Floats:
    """The most that the other points of a falling curve let each be; NaN where these rise.

    That is the point before; for the first, a few times the fall of the next two (a power law
    falls ever more slowly).
    """
    allowed = np.full(len(y), np.nan)
    if len(y) < 3:
        return allowed
    falls = np.append(y[2:] <= y[:-2], y[-2] <= y[-3])
    allowed[1:] = np.where(falls, y[:-1], np.nan)
    if y[2] <= y[1]:
        step = max((x[1] - x[0]) / (x[2] - x[1]), 1.0)
        allowed[0] = y[1] + _STEEPEST * step * (y[1] - y[2])
    return allowed


def budgets(tokens: pd.Series[float]) -> pd.Series[float]:
    """The nominal budget of each count of tokens: counts within 0.5 % of the least are one budget.

    It is the commonest of them, and of equally common ones that with the fewest digits.
    """
    common = tokens.value_counts()
    levels: dict[float, float] = {}
    group: list[float] = []
    for value in [*sorted(common.index), np.inf]:
        if group and value > group[0] * (1 + SAME_BUDGET):
            nominal = max(group, key=lambda v: (common[v], -len(f"{v:.15g}".rstrip("0"))))
            levels |= dict.fromkeys(group, nominal)
            group = []
        group.append(value)
    return tokens.map(levels)
