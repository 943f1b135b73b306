"""Sentences on how a comparison was done, and on what could not be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from scalinglaws.compare.cost import shared
from scalinglaws.compare.curves import Curves
from scalinglaws.compare.differences import Contrast
from scalinglaws.study import Study
from scalinglaws.tables import tokens_text

_LEVEL = 0.05


def notes(
    study: Study,
    reference: str,
    curves: Mapping[str, Curves],
    against: Mapping[str, Contrast],
    worth: pd.DataFrame,
    tests: pd.DataFrame,
    costs: pd.DataFrame | None,
) -> Iterator[str]:
    """What a reader of the tables needs to know, one sentence each."""
    if not against:
        yield f"There is one method, {reference}: nothing to compare it with."
        return
    yield from _curves(study, reference, curves)
    yield from _noise(reference, against)
    yield from _permutation(tests)
    yield from _reach(reference, curves, worth)
    if owners := shared(costs):
        yield (
            f"{', '.join(owners)} share stages of selection; each is charged with all of theirs, "
            f"as if it were used alone."
        )


def _curves(study: Study, reference: str, curves: Mapping[str, Curves]) -> Iterator[str]:
    without = [method for method in study.methods if method not in curves]
    if not curves:
        yield "No method has a fitted curve: only the differences at each budget are compared."
    elif without:
        yield f"Without a fitted curve, {', '.join(without)} can only be compared at each budget."
        if reference in without:
            yield f"As the reference {reference} has no curve, there are no multipliers."


def _noise(reference: str, against: Mapping[str, Contrast]) -> Iterator[str]:
    """How the intervals of differences came about."""
    for method, each in against.items():
        if not set(each.first.by_budget) & set(each.second.by_budget):
            yield f"{method} and {reference} have no budget in common: no differences."
            continue
        used = each.paired if each.paired is not None else each.first
        degrees = max(cell.degrees for cell in used.by_budget.values())
        paired = "pairs of one seed" if each.paired is not None else "runs that share no seed"
        if degrees <= 0:
            yield (
                f"{method} and {reference}: one run a budget does not measure noise, so their "
                f"differences have no interval."
            )
        elif used.pooled:
            yield (
                f"{method} and {reference}: differences by {paired}, the variance pooled over "
                f"budgets ({degrees:.0f} degrees of freedom"
                + (f"; Bartlett's p = {used.bartlett:.2g})." if used.bartlett >= 0 else ").")
            )
        else:
            yield (
                f"{method} and {reference}: differences by {paired}, each budget with its "
                f"own variance, because the variances differ (Bartlett's p = {used.bartlett:.2g})."
            )


def _permutation(tests: pd.DataFrame) -> Iterator[str]:
    weak = tests[tests["least_p"] > _LEVEL].drop_duplicates("methods")
    for least, part in weak.groupby("least_p"):
        yield (
            f"The test of exchanged names gives no p under {least:.2g} for "
            f"{', '.join(part['methods'])}: with so few runs this exact test cannot show anything."
        )


def _reach(reference: str, curves: Mapping[str, Curves], worth: pd.DataFrame) -> Iterator[str]:
    """Where the reference's curve is read beyond its own budgets."""
    plain = worth[(worth["charged"] == "none") & ~worth["extrapolated"].astype(bool)]
    for method, part in plain.groupby("method", sort=False):
        last = part.loc[part["tokens"].idxmax()]
        needed, most = last["tokens"] * last["multiplier"], curves[reference].high
        if needed > 1.1 * most:
            read = f"to {tokens_text(needed)} tokens" if needed < float("inf") else "without limit"
            yield (
                f"The multiplier of {method} at its largest budget reads {reference}'s curve "
                f"{read}, beyond the {tokens_text(most)} that were measured."
            )
