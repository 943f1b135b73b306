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


def write_table(path: Path, row: dict[str, Any]) -> None:
    """Put ``row`` between the two marks in ``path``, in place of that of the same fault."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    old, mark, after = rest.partition(END)
    assert mark, f"{path} has no marks for the table"
    lines = {_name(line): line for line in old.splitlines()[3:] if line.startswith("|")}
    line = (
        f"| {row['fault']} | {row['where']} | {row['attempts']} | {row['again']} "
        f"| {row['back']:.0f} | {'yes' if row['identical'] else 'no'} |"
    )
    lines[_name(line)] = line
    date = time.strftime("%d %B %Y", time.gmtime())
    body = "\n".join([BEGIN, _HEAD + "\n".join(lines.values()), "", f"Last run: {date}.", END])
    path.write_text(before + body + after, encoding="utf-8")


def _name(line: str) -> tuple[str, ...]:
    """Fault and place."""
    return tuple(cell.strip() for cell in line.split("|")[1:3])
