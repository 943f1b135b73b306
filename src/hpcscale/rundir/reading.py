"""Read what tasks wrote into a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_done, read_json
from hpcscale.errors import TaskError
from hpcscale.rundir.layout import DONE, TASK

#: A task by its id and key.
Address = tuple[str, str]
Row = dict[str, Any]


def read_record(run_dir: Path, address: Address, name: str) -> Row | None:
    """A JSON output of a task; None where the task is not done under this key."""
    task_id, key = address
    if read_done(run_dir / task_id, key) is None:
        return None
    return dict(read_json(run_dir / task_id / name))


def facts_of_kind(run_dir: Path, folder: str, kind: str) -> Iterator[Row]:
    """The facts in the markers of the done tasks of one kind under ``folder``."""
    for marker in (run_dir / folder).glob(f"**/{DONE}"):
        try:
            facts = json.loads(marker.read_text(encoding="utf-8"))["facts"]
            task = json.loads((marker.parent / TASK).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError):
            continue
        if task.get("kind") == kind:
            yield facts


def read_lines(path: Path) -> Iterator[Row]:
    """The objects of a file of JSON lines. An absent file has none.

    An incomplete last line is skipped; another line that is not JSON raises TaskError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise TaskError(f"{path}:{number} is not JSON; delete the line") from None
