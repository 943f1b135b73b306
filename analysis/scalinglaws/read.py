"""Reading a table of losses, and saying what in it cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scalinglaws.errors import AnalysisError

#: The columns that the analysis knows; only tokens and loss must be there.
COLUMNS = ("method", "tokens", "loss", "seed", "model_size", "unique_tokens", "domain")
_ONLY = "all"


@dataclass(frozen=True)
class Losses:
    """A checked table, and a sentence for each thing that was left out or looks wrong."""

    frame: pd.DataFrame
    warnings: list[str]

    @property
    def methods(self) -> list[str]:
        """In the order of the table."""
        return list(dict.fromkeys(self.frame["method"]))


def read_losses(
    source: Path | str | pd.DataFrame, columns: Mapping[str, str] | None = None
) -> Losses:
    """Read a CSV or a frame. ``columns`` maps our names to those of the file: ``{"tokens": "D"}``.

    Raises AnalysisError where a column is missing or no row can be used.
    """
    frame = source if isinstance(source, pd.DataFrame) else _read_csv(Path(source))
    frame = frame.rename(columns={theirs: ours for ours, theirs in (columns or {}).items()})
    for name in ("tokens", "loss"):
        if name not in frame:
            raise AnalysisError(
                f"there is no column `{name}`; the table has {', '.join(map(str, frame.columns))}; "
                f"map it with --columns {name}=NAME"
            )
    frame = frame[[name for name in COLUMNS if name in frame]].copy()
    if "method" not in frame:
        frame.insert(0, "method", _ONLY)
    frame["method"] = frame["method"].astype(str)
    for name in ("tokens", "loss"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return _checked(frame)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise AnalysisError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise AnalysisError(f"{path} is no table that can be read ({error})") from None


def _checked(frame: pd.DataFrame) -> Losses:
    warnings = []
    bad = ~np.isfinite(frame["loss"]) | ~np.isfinite(frame["tokens"])
    if bad.any():
        warnings.append(f"{int(bad.sum())} rows without a finite loss and tokens were left out")
    negative = ~bad & ((frame["loss"] <= 0) | (frame["tokens"] <= 0))
    if negative.any():
        warnings.append(f"{int(negative.sum())} rows with a loss or tokens of 0 or less left out")
    frame = frame[~(bad | negative)]
    keys = [name for name in ("method", "tokens", "seed", "model_size", "domain") if name in frame]
    if "seed" in frame and frame.duplicated(keys).any():
        twice = frame[frame.duplicated(keys)].iloc[0]
        warnings.append(
            f"{int(frame.duplicated(keys).sum())} cells stand more than once, the first "
            f"{twice['method']} at {twice['tokens']:.4g} tokens; the first of each was kept"
        )
        frame = frame[~frame.duplicated(keys)]
    if frame.empty:
        raise AnalysisError("no row has a finite, positive loss and tokens; nothing to analyse")
    return Losses(frame.reset_index(drop=True), [*warnings, *_rising(frame)])


def _rising(frame: pd.DataFrame) -> list[str]:
    warnings = []
    for method, part in frame.groupby("method", sort=False):
        means = part.groupby("tokens")["loss"].mean().sort_index()
        if len(means) > 1 and means.iloc[-1] > means.iloc[0]:
            warnings.append(
                f"{method}: the loss at {means.index[-1]:.4g} tokens is above that at "
                f"{means.index[0]:.4g}; no falling law fits it"
            )
    return warnings
