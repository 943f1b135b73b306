"""Tables for people and for programs: all digits in CSV and JSON, rounded elsewhere.

Where a frame has the columns ``ci_low`` and ``ci_high``, they are the interval of the column just
before them and share its cell. An end that is NaN is open; both NaN mean no interval.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_scalar

from scalinglaws.errors import AnalysisError

MISSING = "—"
OPEN = "open"
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOW, _HIGH = "ci_low", "ci_high"


@dataclass(frozen=True)
class Table:
    """A frame with its texts; ``name`` is a file stem, ``labels`` and ``formats`` are by column.

    Formats are the keys of ``FORMATS``; well-known columns have a default. Raises AnalysisError
    where the name is not a file stem, a column is repeated, or a format unknown.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    labels: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        check_stem(self.name)
        columns = self.frame.columns
        if not columns.is_unique:
            twice = ", ".join(map(str, columns[columns.duplicated()]))
            raise AnalysisError(f"table {self.name} has columns twice: {twice}; rename them")
        for column, kind in self.formats.items():
            if kind not in FORMATS:
                raise AnalysisError(
                    f"table {self.name} gives column {column} the format `{kind}`; "
                    f"the formats are {', '.join(FORMATS)}"
                )


@dataclass(frozen=True)
class Cell:
    """``text`` is for readers; ``value`` is what it sorts by, None where it is text or missing."""

    text: str
    value: float | None


@dataclass(frozen=True)
class Column:
    heading: str
    cells: tuple[Cell, ...]
    numeric: bool


def check_stem(name: str) -> None:
    """Raise AnalysisError where ``name`` cannot be the stem of a file, an anchor and a label."""
    if not _STEM.fullmatch(name):
        raise AnalysisError(
            f"`{name}` cannot name a file; use letters, digits, points, hyphens and underscores"
        )


def columns(table: Table) -> Iterator[Column]:
    """The columns as readers see them, an estimate together with its interval."""
    names = [str(name) for name in table.frame.columns]
    paired = _LOW in names and _HIGH in names and names.index(_LOW) > 0
    estimate = names[names.index(_LOW) - 1] if paired else None
    for place, name in enumerate(names):
        if paired and name in (_LOW, _HIGH):
            continue
        values = list(table.frame.iloc[:, place])
        kind = table.formats.get(name) or _USUAL.get(name, "number")
        heading = table.labels.get(name, _HEADINGS.get(name, name.replace("_", " ")))
        texts = [cell_text(value, kind) for value in values]
        if name == estimate:
            heading += " [95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI]"
            ends = zip(table.frame[_LOW], table.frame[_HIGH], strict=True)
            intervals = [interval_text(low, high, kind) for low, high in ends]
            texts = [" ".join(filter(None, pair)) for pair in zip(texts, intervals, strict=True)]
        cells = (Cell(t, _sort_value(v)) for t, v in zip(texts, values, strict=True))
        dtype = table.frame.dtypes.iloc[place]
        numeric = is_numeric_dtype(dtype) and not is_bool_dtype(dtype)
        yield Column(heading, tuple(cells), numeric)


def cell_text(value: object, kind: str = "number") -> str:
    """``value`` in readable digits: 64k, 3.1416, <0.001, yes; a missing one is a dash."""
    if _missing(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return str(value)
    if math.isinf(value):
        return "∞" if float(value) > 0 else "−∞"
    return FORMATS[kind](value).replace("-", "−")


def interval_text(low: float, high: float, kind: str = "number") -> str:
    """``[0.41, ∞]``; an end that is NaN is open, and the text is empty where both are."""
    if _missing(low) and _missing(high):
        return ""
    ends = (OPEN if _missing(end) else cell_text(end, kind) for end in (low, high))
    return "[{}, {}]".format(*ends)


def tokens_text(value: float) -> str:
    """Three digits: ``64k``, ``3.13M``, and ``1M`` of 999,999."""
    rounded = float(f"{value:.3g}")
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(rounded) >= scale:
            return f"{rounded / scale:.3g}{suffix}"
    return f"{rounded:.3g}"


def _number(value: Any) -> str:
    """Four digits; whole numbers in full, also those that missing ones beside made floats."""
    if isinstance(value, Integral) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    if 1e4 <= abs(value) < 1e7:
        return f"{float(f'{value:.4g}'):,.0f}"
    return re.sub(r"e([-+])0*", lambda m: "e" + m[1].strip("+"), f"{value:.4g}")


def _loss(value: Any) -> str:
    """Four decimals; two digits of what these would make zero."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-5 else _number(float(f"{value:.2g}"))


#: How numbers of each kind are written; ``plain`` leaves them alone (seeds, years).
FORMATS: dict[str, Callable[[Any], str]] = {
    "number": _number,
    "plain": lambda value: f"{value:.12g}",
    "tokens": tokens_text,
    "loss": _loss,
    "p": lambda value: "<0.001" if value < 0.001 else f"{value:.3f}",
    "percent": lambda value: f"{100 * value:.3g} %",
    "factor": lambda value: f"{value:.3g}×",
}
_USUAL = (
    dict.fromkeys(("budget", "tokens", "unique_tokens", "model_size", "largest"), "tokens")
    | dict.fromkeys(("loss", "base_loss", "change", "difference"), "loss")
    | dict.fromkeys(("p", "p_holm"), "p")
    | dict.fromkeys(("accuracy", "share"), "percent")
    | {"multiplier": "factor", "seed": "plain"}
)
_HEADINGS = {"p_holm": "p (Holm)", "sse": "SSE", "aicc": "AICc", "delta_aicc": "ΔAICc", "f": "F"}


def write_table(table: Table, directory: Path) -> list[Path]:
    """Write NAME.csv and NAME.json with all digits and NAME.tex for a paper; return their paths.

    ``directory`` is created if it is missing. In JSON, a number that is not finite is null.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"csv": csv_text(table), "json": _json(table), "tex": latex(table)}
    paths = []
    for suffix, text in contents.items():
        path = directory / f"{table.name}.{suffix}"
        path.write_text(text, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def csv_text(table: Table) -> str:
    return str(table.frame.to_csv(index=False, lineterminator="\n"))


def _json(table: Table) -> str:
    names = [str(name) for name in table.frame.columns]
    rows = table.frame.itertuples(index=False, name=None)
    records = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
    return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def latex(table: Table) -> str:
    r"""A ``table`` float with booktabs' rules, labelled ``tab:NAME``.

    Needs ``\usepackage{booktabs}`` and nothing else.
    """
    shown = list(columns(table))
    lines = [_latex_row(column.heading for column in shown), r"\midrule"]
    for row in zip(*(column.cells for column in shown), strict=True):
        lines.append(_latex_row(cell.text for cell in row))
    alignment = "".join("r" if column.numeric else "l" for column in shown)
    notes = [rf"\par\smallskip\footnotesize {escape_latex(table.notes)}"] if table.notes else []
    body = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(body) + "\n"


def _latex_row(texts: Iterable[str]) -> str:
    # Without the braces, a bracket that opens a row would be an argument of the command before it.
    return "{}" + " & ".join(map(escape_latex, texts)) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "—": "---",
    "Δ": r"$\Delta$",
    "\n": " ",
    "\N{NO-BREAK SPACE}": "~",
}


def escape_latex(text: str) -> str:
    """``text`` with escapes, so that LaTeX prints it unchanged."""
    return "".join(_LATEX.get(character, character) for character in text)


def _missing(value: object) -> bool:
    return bool(is_scalar(value) and pd.isna(value))


def _sort_value(value: object) -> float | None:
    """The number behind a cell; a truth value is text."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or _missing(value):
        return None
    return float(value)


def _plain(value: Any) -> object:
    """``value`` as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    if _missing(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value if isinstance(value, (str, bool, int, float)) else str(value)
