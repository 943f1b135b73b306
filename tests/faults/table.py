"""The battery's last output as a table in a Markdown file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- fault battery: begin -->", "<!-- fault battery: end -->"
_HEAD = """\
| fault | on | attempts | steps done again | seconds to be back | bit-identical |
|---|---|---|---|---|---|
"""


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace what stands between the two marks in ``path``."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, f"{path} has no marks for the table"
    lines = "".join(
        f"| {row['fault']} | {row['where']} | {row['attempts']} | {row['again']} "
        f"| {row['back']:.0f} | {'yes' if row['identical'] else 'no'} |\n"
        for row in rows
    )
    date = time.strftime("%d %B %Y", time.gmtime())
    body = f"{BEGIN}\n{_HEAD}{lines}\nLast run: {date}.\n{END}"
    path.write_text(before + body + after, encoding="utf-8")
