"""The state of each task, from its files and, only for whether it is alive, from its job."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from hpcscale.atomic import read_done, write_json
from hpcscale.rundir.attempts import process_birth
from hpcscale.rundir.layout import DONE, FAILED, JOB, RELEASED, RUNNING, is_task_folder, name_of


class Named(Protocol):
    """What identifies a task."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def key(self) -> str: ...


T_co = TypeVar("T_co", bound=Named, covariant=True)
T = TypeVar("T", bound=Named)
Liveness = Literal["running", "queued", "gone", "unknown"]


@dataclass(frozen=True)
class Job:
    """What a task was submitted as: the name of a back end, and the id that it gave."""

    executor: str
    id: str


#: Asks back ends about jobs.
Ask = Callable[[Sequence[Job]], "dict[Job, Liveness]"]


class State(str, Enum):
    """UNKNOWN: whether the task still runs cannot be found out; neither success nor failure.

    RELEASED (``spent`` in files): the task was done, and its outputs were deleted since no task
    waits for them; they are made again if needed.
    """

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    UNKNOWN = "unknown"
    FAILED = "failed"
    STALE = "stale"
    RELEASED = "spent"
    MISSING = "missing"


@dataclass(frozen=True)
class TaskState(Generic[T_co]):
    """job: the one that the task waits or runs as; of a missing task, the last one."""

    task: T_co
    state: State
    detail: str = ""
    job: Job | None = None

    @property
    def alive(self) -> bool:
        """Whether the task waits or runs, or may do so: starting it now could run it twice."""
        return self.state in (State.RUNNING, State.QUEUED, State.UNKNOWN)

    @property
    def over(self) -> bool:
        """Whether the task was done, even where its outputs have been deleted."""
        return self.state in (State.DONE, State.RELEASED)


def observe(run_dir: Path, tasks: Iterable[T], ask: Ask) -> dict[str, TaskState[T]]:
    """The state of each task by id; ``ask`` is called once, for all their jobs."""
    listed = list(tasks)
    done = {t.id for t in listed if read_done(run_dir / t.id, t.key) is not None}
    jobs = {t.id: job for t in listed if t.id not in done and (job := read_job(run_dir / t.id))}
    wanted = sorted(set(jobs.values()), key=lambda job: (job.executor, job.id))
    liveness = ask(wanted) if wanted else {}
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
            states[task.id] = _from_files(run_dir, task, siblings, job)
    return states


def _from_files(
    run_dir: Path, task: T, siblings: dict[str, set[str]], job: Job | None
) -> TaskState[T]:
    directory = run_dir / task.id
    running = _read(directory / RUNNING)
    # Only the scheduler knows whether a job that it started is alive.
    if running and job is None:
        if running["host"] != socket.gethostname():
            detail = f"started on {running['host']}; if it is gone, delete {directory / RUNNING}"
            return TaskState(task, State.UNKNOWN, detail)
        if process_birth(running["pid"]) == running["born"]:
            return TaskState(task, State.RUNNING, f"process {running['pid']} on this machine")
    failed = _read(directory / FAILED)
    if failed:
        return TaskState(task, State.FAILED, str(failed["error"]))
    if (directory / RELEASED).exists():
        return TaskState(task, State.RELEASED)
    if siblings.get(task.name, set()) - {task.id}:
        return TaskState(task, State.STALE, "made with other settings; that result is kept")
    return TaskState(task, State.MISSING, job=job)


def read_job(directory: Path) -> Job | None:
    """What the task was last submitted as."""
    record = _read(directory / JOB)
    return Job(str(record["executor"]), str(record["id"])) if record else None


def write_job(directory: Path, job: Job, at: float) -> None:
    write_json(directory / JOB, {"executor": job.executor, "id": job.id, "at": at})


def forget_earlier_end(directory: Path) -> None:
    """Remove what an earlier job or failure left, before the task starts on this machine."""
    for name in (JOB, FAILED):
        (directory / name).unlink(missing_ok=True)


def _siblings(run_dir: Path, tasks: Iterable[Named]) -> dict[str, set[str]]:
    """Ids in the run directory for each task name, whatever their key."""
    found: dict[str, set[str]] = {}
    for parent in {str(Path(task.name).parent) for task in tasks}:
        folder = run_dir / parent
        if folder.is_dir():
            for entry in folder.iterdir():
                if is_task_folder(entry.name) and (entry / DONE).exists():
                    name = f"{parent}/{name_of(entry.name)}"
                    found.setdefault(name, set()).add(f"{parent}/{entry.name}")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
