"""Tables of results: CSV for programs, aligned text for readers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcscale.atomic import write_text
from hpcscale.influence.validate.statistics import Interval


@dataclass(frozen=True)
class Table:
    """``rows``: each as long as ``columns``; a column with an Interval becomes three columns of a
    CSV file."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def text(self) -> str:
        """The table as text, with aligned columns, the first of them to the left."""
        cells = [list(self.columns), *([_shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.title]
        for row in cells:
            first, *rest = zip(row, widths, strict=True)
            padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(_shown, row)) + " |" for row in rows)

    def csv(self) -> str:
        spread = [
            any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))
        ]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            name
            for column, wide in zip(self.columns, spread, strict=True)
            for name in ((column, f"{column}_low", f"{column}_high") if wide else (column,))
        )
        for row in self.rows:
            cells: list[Any] = []
            for cell, wide in zip(row, spread, strict=True):
                cells += _spread(cell) if wide else [cell]
            writer.writerow(cells)
        return out.getvalue()


def _spread(cell: Any) -> list[Any]:
    return [cell.value, cell.low, cell.high] if isinstance(cell, Interval) else [cell, "", ""]


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.3f}" if abs(cell) < 1000 else f"{cell:.4g}"
    return str(cell)


def pivot(title: str, corner: str, cells: Iterable[tuple[str, str, Any]]) -> Table:
    """(row, column, value) as a table; rows and columns in the order of first appearance."""
    found: dict[str, dict[str, Any]] = {}
    columns: dict[str, None] = {}
    for row, column, value in cells:
        found.setdefault(row, {})[column] = value
        columns[column] = None
    rows = [[row, *(values.get(column, "") for column in columns)] for row, values in found.items()]
    return Table(title, [corner, *columns], rows)


def write_tables(out: Path, name: str, tables: dict[str, Table], notes: Sequence[str]) -> str:
    """Write each table as ``out/NAME-KEY.csv`` and all as ``out/NAME.txt``; returns that text."""
    for key, table in tables.items():
        write_text(out / f"{name}-{key}.csv", table.csv())
    text = "\n\n".join([*(table.text() for table in tables.values()), "\n".join(notes)]).strip()
    write_text(out / f"{name}.txt", text + "\n")
    return text
