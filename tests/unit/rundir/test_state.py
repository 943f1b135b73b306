"""The state of tasks, from their files and what schedulers say of their jobs."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcscale.atomic import write_done, write_json
from hpcscale.rundir.attempts import process_record
from hpcscale.rundir.state import (
    Job,
    Liveness,
    State,
    TaskState,
    forget_earlier_end,
    observe,
    read_job,
    write_job,
)


@dataclass(frozen=True)
class Named:
    name: str
    key: str

    @property
    def id(self) -> str:
        return f"{self.name}-{self.key[:8]}"


TASK = Named("cells/a", "0123456789abcdef")


def nobody(jobs: Sequence[Job]) -> dict[Job, Liveness]:
    raise AssertionError(f"there is no job to ask about: {jobs}")


def says(**states: Liveness) -> Callable[[Sequence[Job]], dict[Job, Liveness]]:
    """A scheduler that knows these jobs, by number."""
    return lambda jobs: {job: states[job.id] for job in jobs if job.id in states}


def state(run_dir: Path, ask: Callable[..., dict[Job, Liveness]] = nobody) -> TaskState[Named]:
    return observe(run_dir, [TASK], ask)[TASK.id]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / TASK.id).mkdir(parents=True)
    return tmp_path / TASK.id


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    assert state(tmp_path).state is State.MISSING


def test_done_is_by_the_key_and_asks_nobody(tmp_path: Path, folder: Path) -> None:
    write_done(folder, "another key", [])
    assert state(tmp_path).state is State.MISSING
    write_done(folder, TASK.key, [])
    write_job(folder, Job("slurm", "7"), 0.0)
    found = state(tmp_path)
    assert (found.state, found.over, found.alive) == (State.DONE, True, False)


def test_what_other_settings_made_is_stale(tmp_path: Path) -> None:
    other = tmp_path / "cells" / "a-ffffffff"
    other.mkdir(parents=True)
    assert state(tmp_path).state is State.MISSING, "nothing was made there"
    write_done(other, "ffffffff", [])
    assert state(tmp_path).state is State.STALE


@pytest.mark.parametrize("alive", ["running", "queued", "unknown"])
def test_a_job_that_lives_or_may_live_is_alive(
    tmp_path: Path, folder: Path, alive: Liveness
) -> None:
    write_job(folder, Job("slurm", "7"), 0.0)
    write_json(folder / "failed.json", {"error": "of an earlier attempt"})
    found = state(tmp_path, says(**{"7": alive}))
    assert (found.state, found.alive, found.job) == (State(alive), True, Job("slurm", "7"))


def test_of_a_job_that_is_gone_the_files_tell(tmp_path: Path, folder: Path) -> None:
    write_job(folder, Job("slurm", "7"), 0.0)
    # Its scheduler alone can say whether what it started lives.
    write_json(folder / "running.json", {"host": "elsewhere", "pid": 1, "born": "1"})
    found = state(tmp_path, says())
    assert (found.state, found.job) == (State.MISSING, Job("slurm", "7"))
    write_json(folder / "failed.json", {"error": "no memory"})
    found = state(tmp_path, says())
    assert (found.state, found.detail) == (State.FAILED, "no memory")


def test_a_process_of_this_machine_runs_while_it_lives(tmp_path: Path, folder: Path) -> None:
    write_json(folder / "running.json", process_record())
    assert state(tmp_path).state is State.RUNNING
    write_json(folder / "running.json", process_record() | {"born": "0"})
    assert state(tmp_path).state is State.MISSING, "its number is another process's now"


def test_a_process_elsewhere_is_unknown_and_the_file_to_delete_is_named(
    tmp_path: Path, folder: Path
) -> None:
    write_json(folder / "running.json", {"host": f"not-{socket.gethostname()}", "pid": 1})
    found = state(tmp_path)
    assert (found.state, found.alive) == (State.UNKNOWN, True)
    assert str(folder / "running.json") in found.detail


def test_outputs_that_were_deleted_are_over_and_not_done(tmp_path: Path, folder: Path) -> None:
    (folder / "spent.json").write_text("{}")
    found = state(tmp_path)
    assert (found.state, found.over) == (State.RELEASED, True)


def test_back_ends_are_asked_once_about_all_jobs(tmp_path: Path) -> None:
    tasks = [Named(f"cells/{name}", f"{name}{0:015}") for name in "abc"]
    for task, job in zip(tasks, "778", strict=True):
        write_job(tmp_path / task.id, Job("slurm", job), 0.0)
    asked: list[Sequence[Job]] = []

    def ask(jobs: Sequence[Job]) -> dict[Job, Liveness]:
        asked.append(jobs)
        return dict.fromkeys(jobs, "queued")

    found = observe(tmp_path, tasks, ask)
    assert asked == [[Job("slurm", "7"), Job("slurm", "8")]]
    assert {one.state for one in found.values()} == {State.QUEUED}


def test_a_task_that_starts_again_forgets_how_it_ended(folder: Path) -> None:
    write_job(folder, Job("slurm", "7"), 0.0)
    write_json(folder / "failed.json", {"error": "x"})
    assert read_job(folder) == Job("slurm", "7")
    forget_earlier_end(folder)
    assert read_job(folder) is None
    assert not (folder / "failed.json").exists()
    forget_earlier_end(folder)


def test_a_torn_record_counts_as_none(tmp_path: Path, folder: Path) -> None:
    for name in ("job.json", "running.json", "failed.json"):
        (folder / name).write_text(json.dumps({"id": "7", "executor": "slurm"})[:9])
    assert state(tmp_path).state is State.MISSING
