"""What is there: the state of each task, from its files and, for liveness alone, the scheduler."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_done
from hpcscale.plan.graph import Task
from hpcscale.rundir.attempts import RUNNING, process_birth
from hpcscale.worker.run import FAILED

JOB = "job.json"
#: The marker of a task that was done, once its outputs have served their purpose.
SPENT = "spent.json"


class State(str, Enum):
    """Unknown is a job that the scheduler could not be asked about: neither success nor failure.

    Spent: was done, and its outputs are deleted since nothing waits for them; made again if needed.
    """

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    UNKNOWN = "unknown"
    FAILED = "failed"
    STALE = "stale"
    SPENT = "spent"
    MISSING = "missing"


@dataclass(frozen=True)
class TaskState:
    task: Task
    state: State
    detail: str = ""
    job: str | None = None

    @property
    def alive(self) -> bool:
        """Starting the task now could run it twice."""
        return self.state in (State.RUNNING, State.QUEUED, State.UNKNOWN)

    @property
    def over(self) -> bool:
        """It was done, whether or not its outputs are still there."""
        return self.state in (State.DONE, State.SPENT)


def observe(run_dir: Path, tasks: Iterable[Task]) -> dict[str, TaskState]:
    """The state of each task by id; one question to the scheduler for all of them."""
    listed = list(tasks)
    done = {t.id for t in listed if read_done(run_dir / t.id, t.key) is not None}
    jobs = {t.id: job for t in listed if t.id not in done and (job := _job_of(run_dir / t.id))}
    liveness = _ask(sorted(set(jobs.values())))
    siblings = _siblings(run_dir, listed)
    states = {}
    for task in listed:
        if task.id in done:
            states[task.id] = TaskState(task, State.DONE)
            continue
        job = jobs.get(task.id)
        alive = liveness.get(job, "gone") if job else "gone"
        if alive != "gone":
            states[task.id] = TaskState(task, State(alive), job=job)
        else:
            states[task.id] = _from_files(run_dir, task, siblings, scheduled=job is not None)
    return states


def _from_files(
    run_dir: Path, task: Task, siblings: dict[str, set[str]], scheduled: bool
) -> TaskState:
    directory = run_dir / task.id
    running = _read(directory / RUNNING)
    # What the scheduler started, it alone can say whether it lives.
    if running and not scheduled:
        if running["host"] != socket.gethostname():
            detail = f"started on {running['host']}; if it is gone, delete {directory / RUNNING}"
            return TaskState(task, State.UNKNOWN, detail)
        if process_birth(running["pid"]) == running["born"]:
            return TaskState(task, State.RUNNING, f"process {running['pid']} on this machine")
    failed = _read(directory / FAILED)
    if failed:
        return TaskState(task, State.FAILED, str(failed["error"]))
    if (directory / SPENT).exists():
        return TaskState(task, State.SPENT)
    if siblings.get(task.name, set()) - {task.id}:
        return TaskState(task, State.STALE, "made from other settings; kept beside the new one")
    return TaskState(task, State.MISSING)


def _job_of(directory: Path) -> str | None:
    record = _read(directory / JOB)
    return str(record["id"]) if record else None


def _ask(jobs: list[str]) -> dict[str, str]:
    if not jobs:
        return {}
    from hpcscale.cluster.liveness import alive

    return dict(alive(jobs))


def _siblings(run_dir: Path, tasks: Iterable[Task]) -> dict[str, set[str]]:
    """Ids that stand in the run directory for each task name, whatever their key."""
    found: dict[str, set[str]] = {}
    for parent in {str(Path(task.name).parent) for task in tasks}:
        folder = run_dir / parent
        if folder.is_dir():
            for entry in folder.iterdir():
                name, _, key = entry.name.rpartition("-")
                if len(key) == 8 and (entry / "done.json").exists():
                    found.setdefault(f"{parent}/{name}", set()).add(f"{parent}/{entry.name}")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
