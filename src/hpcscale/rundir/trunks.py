"""Segments of trunks in a run directory: which a task continues from, and when they can go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from hpcscale.errors import TaskError
from hpcscale.rundir.layout import CELLS, CHECKPOINTS, DONE, RELEASED, TASK
from hpcscale.rundir.task_file import TaskFile, find_task_file, read_task_file

#: The input that a training continues from.
STATE = "state"


def segments_behind(run_dir: Path, file: TaskFile) -> Iterator[str]:
    """Ids of the segments that a task continues from, the last one first."""
    while segments := file.input_ids(STATE):
        above = find_task_file(run_dir, segments[0])
        if above is None:
            return
        yield segments[0]
        file = above


def release(run_dir: Path, segment: Path) -> None:
    """Delete the state of a segment where all that continues from it is done: its branches and the
    next segment. The last of a trunk keeps its state, so that a larger budget costs the rest only.

    Called by whatever reads the state, once that is marked: of two that end together, the later
    finds both marks.
    """
    own = str(segment.relative_to(run_dir))
    cells = [path.parent for path in (run_dir / CELLS).glob(f"*/{TASK}")]
    segments = [path.parent for path in segment.parent.glob(f"*/{TASK}")]
    readers = [task for task in cells if _reads(run_dir, task, own)]
    behind = [task for task in segments if _reads(run_dir, task, own)]
    ended = all(_was_done(task) for task in readers + behind)
    if behind and ended and (segment / DONE).exists():
        (segment / DONE).replace(segment / RELEASED)
        shutil.rmtree(segment / CHECKPOINTS, ignore_errors=True)


def _was_done(task: Path) -> bool:
    return (task / DONE).exists() or (task / RELEASED).exists()


def _reads(run_dir: Path, task: Path, segment: str) -> bool:
    try:
        return segment in read_task_file(run_dir, str(task.relative_to(run_dir))).input_ids(STATE)
    except TaskError:
        return False  # gone since it was listed
