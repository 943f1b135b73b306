"""Reading what the tasks of a run directory left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_done, read_json
from hpcscale.errors import TaskError
from hpcscale.worker.context import SPEC

#: A task by its id and key.
Address = list[str]
Row = dict[str, Any]


def read_record(run_dir: Path, address: Address, name: str) -> Row | None:
    """A JSON output of a task; None where the task is not done under this key."""
    task_id, key = address
    if read_done(run_dir / task_id, key) is None:
        return None
    return dict(read_json(run_dir / task_id / name))


def read_spec(run_dir: Path, task_id: str) -> Row | None:
    """A task's spec; None where the run directory has no such task."""
    path = run_dir / task_id / SPEC
    return dict(read_json(path)) if path.exists() else None


def input_ids(spec: Row, label: str) -> list[str]:
    """Ids of a task's inputs under ``label``."""
    return [entry["id"] for entry in spec["inputs"].get(label, [])]


def read_lines(path: Path) -> Iterator[Row]:
    """The objects of a file of JSON lines; none where it is absent, a torn last line left out.

    Raises TaskError where another line is no JSON.
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
                raise TaskError(f"{path}:{number} is no JSON; delete the line") from None


def label_of(cell: Row) -> Row:
    """What names a cell in every table."""
    return {"method": cell["method"], "tokens": cell["budget"], "seed": cell["seed"]}
