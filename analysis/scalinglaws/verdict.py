"""What the data say, in sentences: what differs, by how much, how certain, and what is open."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from scalinglaws.compare import Comparison
from scalinglaws.forecasts import FACTOR
from scalinglaws.page.content import Sentence
from scalinglaws.study import LACK, Study
from scalinglaws.tables import tokens_text

_SURE = 0.05
_FEW_SEEDS, _SHORT = 2, 1.0


def verdict(study: Study, comparison: Comparison | None, ahead: pd.DataFrame) -> list[Sentence]:
    """The sentences at the head of a report. ahead: ``forecasts`` of the study."""
    found: list[Sentence] = []
    if comparison is not None and study.law is not None:
        found += _differences(comparison.differences)
        found += _overall(comparison.nested, comparison.permutation)
        found += _multipliers(comparison.multipliers)
        found += _crossovers(comparison.crossovers)
        found += _ranking(comparison.ranking)
    found += _laws(study, ahead)
    return [*found, *_limits(study)]


def _differences(frame: pd.DataFrame) -> Iterator[Sentence]:
    """The difference of each method to the reference, at the largest budget that both have."""
    for method, part in frame.groupby("method", sort=False):
        row = part.loc[part["budget"].idxmax()]
        size, low, high = row["difference"], row["ci_low"], row["ci_high"]
        at = f"At {tokens_text(row['budget'])} tokens"
        sure = f"95 % CI {low:+.4f} to {high:+.4f}"
        if not np.isfinite([low, high]).all():
            why = "one pair of runs does" if row["pairs"] < 2 else "pairs without any spread do"
            yield Sentence(
                f"{at} {method} lies {size:+.4f} nats from {row['reference']}; {why} not show "
                "how certain that is.",
                "open",
            )
        elif low <= 0 <= high:
            yield Sentence(
                f"{at} {method} and {row['reference']} cannot be told apart: {size:+.4f} nats "
                f"({sure}).",
                "open",
            )
        else:
            way = "lower" if size < 0 else "higher"
            text = f"{at} the loss of {method} is {abs(size):.4f} nats {way} than that of "
            text += f"{row['reference']} ({sure}"
            if row["p_holm"] < _SURE:
                yield Sentence(f"{text}, {_p(row['p_holm'])} by Holm).")
            else:
                chance = f"{_p(row['p_holm'])} by Holm"
                yield Sentence(
                    f"{text}); among all comparisons made, it can be chance ({chance}).",
                    "open",
                )


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"


def _overall(nested: pd.DataFrame, permutation: pd.DataFrame) -> Iterator[Sentence]:
    """Whether one curve describes all methods, and if not, what describes the difference.

    The permutation pairs runs of one seed, which the F test cannot: it goes first.
    """
    part = nested[nested["methods"] == "all"].set_index("hypothesis")
    if part.empty or "one curve" not in part.index:
        return
    curved = part.loc["one curve", "p"]
    paired = permutation[permutation["methods"] == "all"]["p"].min()
    least = np.nanmin([curved, paired]) if np.isfinite([curved, paired]).any() else np.nan
    tests = [f"{_p(paired)} by permutation within budget and seed"] * bool(np.isfinite(paired))
    tests += [f"{_p(curved)} by an F test of the curves"] * bool(np.isfinite(curved))
    if not least < _SURE:
        yield Sentence(f"One curve describes all methods ({'; '.join(tests)}).", "open")
        return
    start = f"The methods differ ({'; '.join(tests)})"
    enough = [
        name
        for name in ("offset", "efficiency")
        if name in part.index and not part.loc[name, "p"] < _SURE
    ]
    meaning = {"offset": "another floor E", "efficiency": "tokens that are worth more or less"}
    if len(enough) == 1:
        yield Sentence(f"{start}: {meaning[enough[0]]} is enough to describe how.")
    elif enough:
        gap = abs(part.loc["offset", "aicc"] - part.loc["efficiency", "aicc"])
        better = part.loc[enough, "aicc"].astype(float).idxmin()
        apart = "and the data cannot say which" if gap < 4 else f"{meaning[better]} fits better"
        yield Sentence(
            f"{start}. Another floor E, or tokens that are worth more or less, both describe how, "
            f"{apart} (AICc differs by {gap:.1f})."
        )
    else:
        yield Sentence(
            f"{start}, and neither another floor nor another worth of tokens describes how."
        )


def _crossovers(frame: pd.DataFrame) -> Iterator[Sentence]:
    for row in frame.itertuples():
        unsure = any(word in row.verdict for word in ("open", "cannot tell"))
        yield Sentence(row.verdict, "open" if unsure else "finding")


def _multipliers(frame: pd.DataFrame) -> Iterator[Sentence]:
    """At the largest measured budget, plain and with selection charged."""
    measured = frame[~frame["extrapolated"].astype(bool)]
    for method, part in measured.groupby("method", sort=False):
        at = part[part["tokens"] == part["tokens"].max()].set_index("charged")
        if "none" not in at.index:
            continue
        row = at.loc["none"]
        text = (
            f"At {tokens_text(row['tokens'])} tokens, a token chosen by {method} is worth "
            f"{_times(row)} of {row['reference']}"
        )
        charged = [
            f"{_times(at.loc[kind])} with its cost charged in {name}"
            for kind, name in (("flops", "FLOPs"), ("device_hours", "device hours"))
            if kind in at.index
        ]
        sure = row["ci_low"] > 1 or row["ci_high"] < 1
        yield Sentence("; ".join([text, *charged]) + ".", "finding" if sure else "open")


def _times(row: pd.Series) -> str:
    ends = [f"{v:.2f}" if np.isfinite(v) else "no end" for v in (row["ci_low"], row["ci_high"])]
    if not np.isfinite(row["multiplier"]):
        return f"more than any number of tokens (from {ends[0]})"
    return f"{row['multiplier']:.2f} ({ends[0]} to {ends[1]})"


def _ranking(frame: pd.DataFrame) -> Iterator[Sentence]:
    if frame.empty or frame["pairs"].max() < 3:
        return
    row = frame.loc[frame["budget"].idxmin()]
    yield Sentence(
        f"The order of methods at {tokens_text(row['budget'])} tokens agrees with that at "
        f"{tokens_text(row['largest'])} in {row['agreeing']:.0f} of {row['pairs']:.0f} pairs."
    )


def _laws(study: Study, ahead: pd.DataFrame) -> Iterator[Sentence]:
    """Which law was used, and how far the forecasts of those that fit as well lie apart."""
    choice = study.choice
    if choice.law is None:
        reasons = "; ".join(dict.fromkeys(f.message for f in study.failures))
        yield Sentence(f"No law could be fitted: {reasons}.", "caution")
        return
    if not choice.rivals:
        return
    names = [choice.law, *choice.rivals]
    near = ahead[ahead["law"].isin(names)]
    spans = near.groupby("method")["loss"].agg(lambda values: values.max() - values.min())
    wide = f", and their forecasts at {FACTOR:g} times the largest budget lie up to " + (
        f"{spans.max():.3f} nats apart" if len(spans) else ""
    )
    yield Sentence(
        f"The data cannot tell the laws {', '.join(names)} apart (AICc){wide if len(spans) else ''}"
        f". Numbers here use the {choice.law} law.",
        "caution",
    )


def _limits(study: Study) -> Iterator[Sentence]:
    """What this design cannot say."""
    for method, fit in study.chosen.items():
        if not fit.identified:
            yield Sentence(f"{method}, {fit.law.name} law: {fit.message}.", "caution")
        missed = fit.tests.get("lack_of_fit", 1.0)
        if missed * len(study.chosen) < LACK:
            yield Sentence(
                f"{method}: budgets' means lie farther from the {fit.law.name} law than seeds "
                f"explain ({_p(missed)}). Bands allow for it, intervals of parameters do not.",
                "caution",
            )
    lacking = [method for method in study.methods if study.law and method not in study.chosen]
    for failure in study.failures:
        if failure.method in lacking and failure.law == study.law:
            yield Sentence(f"{failure.method} has no curve: {failure.message}.", "caution")
    frame = study.losses.frame
    seeds = frame.groupby(["method", "budget"]).size().min()
    if seeds < _FEW_SEEDS:
        yield Sentence(
            "With one seed at a budget, the noise of a run is known only from the fit's "
            "residuals; a second seed would measure it.",
            "caution",
        )
    decades = float(np.log10(frame["tokens"].max() / frame["tokens"].min()))
    if decades < _SHORT:
        yield Sentence(
            f"The budgets span {decades:.1f} decades; the exponent and the floor need more "
            "to be told apart.",
            "caution",
        )
