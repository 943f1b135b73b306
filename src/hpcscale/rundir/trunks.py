"""Segments of trunks: which of them a task continues from, and when their state is deleted."""

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
    """Delete the state of a segment once all tasks that continue from it are done: its branches and
    the next segment. The last segment keeps its state, for a larger budget to continue from.

    Each task that continues from the state calls this after it is marked as done; of two that end
    at the same time, the later one finds both markers.
    """
    own = str(segment.relative_to(run_dir))
    cells = [path.parent for path in (run_dir / CELLS).glob(f"*/{TASK}")]
    segments = [path.parent for path in segment.parent.glob(f"*/{TASK}")]
    readers = [task for task in cells if _reads(run_dir, task, own)]
    following = [task for task in segments if _reads(run_dir, task, own)]
    ended = all(_was_done(task) for task in readers + following)
    if following and ended and (segment / DONE).exists():
        (segment / DONE).replace(segment / RELEASED)
        shutil.rmtree(segment / CHECKPOINTS, ignore_errors=True)


def _was_done(task: Path) -> bool:
    return (task / DONE).exists() or (task / RELEASED).exists()


def _reads(run_dir: Path, task: Path, segment: str) -> bool:
    try:
        return segment in read_task_file(run_dir, str(task.relative_to(run_dir))).input_ids(STATE)
    except TaskError:
        return False  # deleted since it was listed
