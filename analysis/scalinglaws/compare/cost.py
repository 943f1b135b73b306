"""The costs of a method: training per token, and selection once."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

#: Column of results.csv by the unit that costs are counted in.
UNITS = {"flops": "train_flops", "device_hours": "device_hours"}

Costs = Mapping[str, Mapping[str, float]]


def training(results: pd.DataFrame | None) -> dict[str, dict[str, float]]:
    """Cost of a training token by unit and method, of a table with train_flops or device_hours.

    It is the cost of all cells over their tokens. A method with a cell of unknown cost is left out.
    """
    found: dict[str, dict[str, float]] = {}
    for unit, column in UNITS.items():
        if results is None or not {"method", "tokens", column} <= set(results):
            continue
        known = results.assign(**{column: pd.to_numeric(results[column], errors="coerce")})
        known["tokens"] = pd.to_numeric(known["tokens"], errors="coerce")
        summed = known.groupby("method")[[column, "tokens"]].sum(min_count=1)
        complete = known[column].notna().groupby(known["method"]).all()
        each = (summed[column] / summed["tokens"])[complete & (summed[column] > 0)]
        found[unit] = {str(method): float(value) for method, value in each.items()}
    return found


def selection(costs: pd.DataFrame | None) -> dict[str, dict[str, float]]:
    """Cost of selection by unit and method, over all stages; a shared stage counts in full.

    A user of one method alone pays for all of its stages. A method with a stage of unknown cost is
    left out.
    """
    found: dict[str, dict[str, float]] = {}
    for unit in UNITS:
        if costs is None or not {"method", unit} <= set(costs):
            continue
        values = pd.to_numeric(costs[unit], errors="coerce")
        summed = values.groupby(costs["method"]).sum(min_count=1)
        complete = values.notna().groupby(costs["method"]).all()
        found[unit] = {str(method): float(value) for method, value in summed[complete].items()}
    return found


def shared(costs: pd.DataFrame | None) -> list[str]:
    """Methods that have a stage in common with another."""
    if costs is None or "shared_with" not in costs:
        return []
    named = costs["shared_with"].notna() & (costs["shared_with"].astype(str).str.strip() != "")
    return list(dict.fromkeys(costs.loc[named, "method"].astype(str)))
