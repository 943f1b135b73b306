"""Read a table of losses; tell what in it cannot be used and what looks wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalinglaws.checks import (
    budgets,
    conflicting,
    diverged,
    incomplete,
    more_unique_than_total,
    not_positive,
    repeated,
)
from scalinglaws.data_warnings import warnings_of
from scalinglaws.errors import AnalysisError

#: The columns that the analysis knows; only tokens and loss are required.
COLUMNS = ("method", "tokens", "loss", "seed", "model_size", "unique_tokens", "domain")
_ONLY = "all"
_COUNT = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Losses:
    """A checked table, and a sentence for each thing that was left out or looks wrong.

    frame: the known columns that the table has, and ``budget``, the nominal level of ``tokens``:
    counts within 0.5 % are one. left_out: rows that are not used, as they were given, with their
    place ``where`` and the ``reason``.
    """

    frame: pd.DataFrame
    warnings: list[str]
    left_out: pd.DataFrame

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the table."""
        return list(dict.fromkeys(self.frame["method"]))


def read_losses(
    source: Path | str | pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    *,
    keep_outliers: bool = False,
) -> Losses:
    """Read a CSV or a frame. ``columns`` maps our names to those of the file: ``{"tokens": "D"}``.

    Counts may be written as ``64k`` or ``1.5B``. ``keep_outliers`` keeps cells that look diverged.
    Raises AnalysisError where a column is missing or no row can be used.
    """
    if isinstance(source, pd.DataFrame):
        table, place = source, "row"
    else:
        table, place = _read_csv(Path(source)), "line"
    given = _known_columns(table, columns or {})
    where = [f"{place} {label}" for label in given.index]
    given = given.reset_index(drop=True)
    frame = _typed(given).assign(
        where=where, given_tokens=given["tokens"], given_loss=given["loss"]
    )
    said: list[str] = []
    reasons: dict[int, str] = {}
    checks = [incomplete, not_positive, more_unique_than_total, repeated, conflicting]
    for check in checks if keep_outliers else [*checks, diverged]:
        fault = check(frame)
        if fault.reasons:
            said.append(fault.warning(frame))
            reasons |= fault.reasons
            frame = frame.drop(index=list(fault.reasons))
    if frame.empty:
        why = "; ".join(said) or "it has no rows"
        raise AnalysisError(f"nothing in the table can be analysed: {why}")
    left = sorted(reasons)
    left_out = given.loc[left].assign(
        where=[where[row] for row in left], reason=[reasons[row] for row in left]
    )
    frame = frame.drop(columns=["where", "given_tokens", "given_loss"]).reset_index(drop=True)
    frame["budget"] = budgets(frame["tokens"])
    return Losses(frame, [*said, *warnings_of(frame)], left_out.reset_index(drop=True))


def _read_csv(path: Path) -> pd.DataFrame:
    """The table with the line of the file as index; blank lines hold no row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, skip_blank_lines=False, skipinitialspace=True, index_col=False
            )
    except FileNotFoundError:
        raise AnalysisError(f"{path}: no such file") from None
    except pd.errors.ParserWarning:
        raise AnalysisError(
            f"{path}: its rows have more fields than its header; name all columns"
        ) from None
    except (ValueError, OSError) as error:
        raise AnalysisError(f"{path} cannot be read as a table ({str(error).strip()})") from None
    table.index = pd.RangeIndex(2, len(table) + 2)
    return table.dropna(how="all")


def _known_columns(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The columns of the table that the analysis knows, under our names, as given."""
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise AnalysisError(
            f"there is no column `{unknown[0]}` to map; known: {', '.join(COLUMNS)}"
        )
    table = table.rename(columns=lambda name: str(name).strip())
    has = ", ".join(table.columns)
    picked: dict[str, pd.Series[Any]] = {}
    for name in COLUMNS:
        theirs = columns.get(name, name)
        if theirs not in table.columns:
            if name in columns:
                raise AnalysisError(
                    f"`{name}` is mapped to `{theirs}`, which is not a column; the table has {has}"
                )
            if name in ("tokens", "loss"):
                raise AnalysisError(
                    f"there is no column `{name}`; the table has {has}; map it with --columns "
                    f"{name}=NAME"
                )
            continue
        column = table[theirs]
        if isinstance(column, pd.DataFrame):
            raise AnalysisError(f"two columns are called `{theirs}`; rename one")
        picked[name] = column
    return pd.DataFrame(picked, index=table.index)


def _typed(given: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64, NaN where there is none; methods as stripped text."""
    frame = given.copy()
    for name in ("tokens", "unique_tokens", "model_size"):
        if name in frame:
            frame[name] = frame[name].map(count_of).astype(float)
    frame["loss"] = pd.to_numeric(frame["loss"], errors="coerce").astype(float)
    if "method" not in frame:
        frame.insert(0, "method", _ONLY)
    named = frame["method"].astype(object).where(frame["method"].notna(), "")
    frame["method"] = named.map(lambda name: str(name).strip())
    return frame


def count_of(value: object) -> float:
    """``64k``, ``1.5B``, ``64,000`` or a number as a count; NaN where it is not one."""
    if not isinstance(value, str):
        return np.nan if value is None else float(value)  # type: ignore[arg-type]
    match = _COUNT.fullmatch(re.sub(r"[,_\s]", "", value).removeprefix("+"))
    # In 15 digits: a short decimal times a power of ten can miss the integer by an ulp.
    return np.nan if match is None else float(f"{float(match[1]) * _SCALE[match[2].lower()]:.15g}")
