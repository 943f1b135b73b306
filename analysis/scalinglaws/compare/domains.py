"""Losses by domain: change from the base model, and difference to the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scalinglaws.checks import budgets
from scalinglaws.compare.differences import contrasts
from scalinglaws.errors import AnalysisError

DOMAINS = "method domain budget loss base_loss change difference ci_low ci_high".split()
FRONTIER = ["method", "budget", "target", "forgetting"]


def domains(frame: pd.DataFrame | None, reference: str) -> pd.DataFrame:
    """One row per method, domain, budget of a frame with method, tokens, domain, loss.

    loss: mean over seeds; base_loss: of the base model, NaN where the frame has none; difference:
    to the reference with the 95 % interval of ``differences`` (nats a token).
    """
    if frame is None or frame.empty:
        return pd.DataFrame(columns=DOMAINS)
    if "budget" not in frame:
        frame = frame.assign(budget=budgets(frame["tokens"]))
    if "base_loss" not in frame:
        frame = frame.assign(base_loss=np.nan)
    rows = []
    for domain, part in frame.groupby("domain", sort=False):
        means = part.groupby(["method", "budget"], sort=False)[["loss", "base_loss"]].mean()
        against = {
            (method, row[0]): row[1:4]
            for method, each in contrasts(part, reference).items()
            for row in each.rows()
        }
        for (method, budget), (loss, base) in zip(means.index, means.to_numpy(), strict=True):
            apart = against.get((method, budget), [np.nan] * 3)
            rows.append([method, domain, float(budget), loss, base, loss - base, *apart])
    found = pd.DataFrame(rows, columns=DOMAINS)
    order = {name: place for place, name in enumerate(dict.fromkeys(frame["method"]))}
    return found.sort_values(
        ["method", "budget"],
        key=lambda c: c.map(order) if c.name == "method" else c,
        kind="stable",
        ignore_index=True,
    )


def frontier(table: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Mean change over the target domains and over the others; ``table`` is that of ``domains``.

    Negative is better; ``forgetting`` above 0 is what the other domains lost. Raises AnalysisError
    for an unknown domain.
    """
    known = list(dict.fromkeys(table["domain"]))
    if missing := [name for name in targets if name not in known]:
        raise AnalysisError(f"there is no domain `{missing[0]}`; there are {', '.join(known)}")
    aimed = table["domain"].isin(targets)
    keys = ["method", "budget"]
    sides = {"target": table[aimed], "forgetting": table[~aimed]}
    means = {name: part.groupby(keys, sort=False)["change"].mean() for name, part in sides.items()}
    return pd.DataFrame(means).reset_index()[FRONTIER]
