"""The inputs of an analysis: a table of losses, and the files that a sweep wrote beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from scalinglaws.errors import AnalysisError
from scalinglaws.read import Losses, read_losses

RESULTS, DOMAINS, SETTING = "results.csv", "results-domains.csv", "setting.json"


@dataclass(frozen=True)
class Inputs:
    """Checked losses, and a sweep's cells, domains, costs and curves where it wrote them.

    results: the whole table, with the columns that the analysis does not know. domains: method,
    tokens, seed, domain, loss, base_loss. A frame without a file is None.
    """

    losses: Losses
    results: pd.DataFrame
    base_loss: float | None
    source: str
    domains: pd.DataFrame | None = None
    costs: pd.DataFrame | None = None
    trajectories: pd.DataFrame | None = None
    overlap: pd.DataFrame | None = None
    setting: dict[str, Any] | None = None


def read_inputs(
    source: Path | str | pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    base_loss: float | None = None,
    keep_outliers: bool = False,
) -> Inputs:
    """Read a CSV, a frame, or a directory with ``results.csv`` and a sweep's files beside it.

    base_loss: the base model's, in nats a token; default: the table's column of this name, where
    all rows agree. Raises AnalysisError where nothing can be read.
    """
    if isinstance(source, pd.DataFrame):
        return _of_table(source, columns, base_loss, keep_outliers, "a table")
    path = Path(source)
    if not path.is_dir():
        return _of_table(path, columns, base_loss, keep_outliers, path.name)
    if not (path / RESULTS).exists():
        raise AnalysisError(f"{path / RESULTS} is missing: no cell of the sweep is done yet")
    inputs = _of_table(path / RESULTS, columns, base_loss, keep_outliers, RESULTS)
    return replace(
        inputs,
        setting=_setting(path / SETTING),
        domains=_frame(path / DOMAINS),
        costs=_frame(path / "costs.csv"),
        trajectories=_frame(path / "trajectories.csv"),
        overlap=_frame(path / "overlap.csv"),
    )


def _of_table(
    source: Path | pd.DataFrame,
    columns: Mapping[str, str] | None,
    base_loss: float | None,
    keep_outliers: bool,
    name: str,
) -> Inputs:
    losses = read_losses(source, columns, keep_outliers=keep_outliers)
    results = source if isinstance(source, pd.DataFrame) else pd.read_csv(source)
    if base_loss is None and "base_loss" in results:
        given = pd.to_numeric(results["base_loss"], errors="coerce").dropna().unique()
        base_loss = float(given[0]) if len(given) == 1 else None
    losses, domains = _split(losses)
    return Inputs(losses, results, base_loss, name, domains)


def _split(losses: Losses) -> tuple[Losses, pd.DataFrame | None]:
    """Losses over everything, and those by domain, of a table that has a column ``domain``.

    Rows without a domain are over everything; where there are none, the plain mean over domains is
    used, with a warning.
    """
    frame = losses.frame
    if "domain" not in frame:
        return losses, None
    named = frame["domain"].notna() & (frame["domain"].astype(str).str.strip() != "")
    if not named.any():
        return replace(losses, frame=frame.drop(columns="domain")), None
    domains, whole = frame[named], frame[~named].drop(columns="domain")
    if whole.empty:
        keys = [name for name in frame if name not in ("loss", "domain", "unique_tokens")]
        grouped = domains.groupby(keys, sort=False, dropna=False)["loss"]
        count = domains["domain"].nunique()
        complete = grouped.transform("count") == count
        whole = domains[complete].groupby(keys, sort=False, dropna=False)["loss"].mean()
        whole = whole.reset_index()
        said = f"no row is over all domains: the plain mean of the {count} domains is used"
        losses = replace(losses, warnings=[*losses.warnings, said])
        if whole.empty:
            raise AnalysisError(
                f"no cell has all {count} domains: none has a loss over all of them"
            )
    return replace(losses, frame=whole.reset_index(drop=True)), domains.reset_index(drop=True)


def _setting(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise AnalysisError(f"{path} is not a JSON object ({error}); run the sweep again") from None


def _frame(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return None
