"""How a worker ends: markers, the tasks behind a failure, and which rank is heard."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import read_done, read_json, write_done
from hpcscale.errors import CheckpointError, OtherRankFailed, Preempted
from hpcscale.plan.kinds import SELECT, TRAIN
from hpcscale.rundir.attempts import newest_checkpoint, read_attempts
from hpcscale.rundir.task_file import write_task_file
from hpcscale.worker import run
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps import select
from planning import context_of, some_task, task_file

AnyContext = Context[Any]
Patch = pytest.MonkeyPatch


@pytest.fixture
def context(tmp_path: Path) -> AnyContext:
    return context_of(tmp_path, some_task(TRAIN), "cells/a")


def save(context: AnyContext, step: int) -> None:
    (context.directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)


def test_checkpoints_go_once_the_task_is_done(context: AnyContext) -> None:
    save(context, 4)
    (context.directory / "out").write_text("x")
    run._finish(context, StepResult(["out"], {"a": 1}, temporary=("checkpoints",)))
    assert read_done(context.directory, "key") is not None
    assert not (context.directory / "checkpoints").exists()
    save(context, 4)
    with pytest.raises(FileNotFoundError):
        run._finish(context, StepResult(["lost"], temporary=("checkpoints",)))
    assert newest_checkpoint(context.directory) == 4


def test_what_follows_a_task_is_called_once_it_is_marked(context: AnyContext) -> None:
    marked = []
    result = StepResult([], on_done=lambda: marked.append(read_done(context.directory, "key")))
    run._finish(context, result)
    assert marked[0] is not None


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two selections, a and b, none of which is done."""
    for name in ("a", "b"):
        write_task_file(tmp_path, task_file(some_task(SELECT), f"selections/{name}"))
    return tmp_path


def fail_in(patch: Patch, faults: dict[str, Exception]) -> list[str]:
    """Steps that do nothing but raise what is given for their task; the tasks that ran."""
    ran: list[str] = []

    def step(context: AnyContext) -> StepResult:
        ran.append(context.file.name)
        if context.file.name in faults:
            raise faults[context.file.name]
        return StepResult([])

    patch.setattr(select, "run", step)
    return ran


def test_one_failure_does_not_keep_the_tasks_behind_it_from_running(
    run_dir: Path, monkeypatch: Patch
) -> None:
    ran = fail_in(monkeypatch, {"selections/a": ValueError("no")})
    tasks = ["selections/a", "selections/b"]
    assert run.run_tasks(run_dir, tasks) == 1
    assert ran == tasks
    failed = read_json(run_dir / "selections/a" / "failed.json")
    assert failed["error"] == "ValueError: no"
    assert read_done(run_dir / "selections/b", "key") is not None
    assert not (run_dir / "selections/b" / "failed.json").exists()


def test_what_is_done_is_not_run_again(run_dir: Path, monkeypatch: Patch) -> None:
    write_done(run_dir / "selections/a", "key", [])
    ran = fail_in(monkeypatch, {})
    assert run.run_tasks(run_dir, ["selections/a", "selections/b"]) == 0
    assert ran == ["selections/b"]


def test_a_stop_passes_through_and_is_no_failure(run_dir: Path, monkeypatch: Patch) -> None:
    ran = fail_in(monkeypatch, {"selections/a": Preempted("saved")})
    with pytest.raises(Preempted):
        run.run_tasks(run_dir, ["selections/a", "selections/b"])
    assert ran == ["selections/a"]
    assert [line["outcome"] for line in read_attempts(run_dir / "selections/a")] == ["preempted"]
    assert not (run_dir / "selections/a" / "failed.json").exists()


def test_a_missing_input_is_neither_done_nor_failed(tmp_path: Path) -> None:
    file = task_file(some_task(SELECT), "selections/a", pool=("data/pool", "key"))
    write_task_file(tmp_path, file)
    assert run.run_tasks(tmp_path, ["selections/a"]) != 0
    assert [line["outcome"] for line in read_attempts(tmp_path / "selections/a")] == ["waiting"]
    assert not (tmp_path / "selections/a" / "failed.json").exists()


def test_the_rank_that_knows_why_is_heard_first(context: AnyContext, monkeypatch: Patch) -> None:
    """Rank 1 sees that rank 0 failed before rank 0 has written why."""

    def meanwhile(seconds: float) -> None:
        run._record_failure(context, CheckpointError("the disk is full"))

    monkeypatch.setattr(run.time, "sleep", meanwhile)
    run._record_failure(context, OtherRankFailed("another rank knows"))
    assert read_json(context.directory / "failed.json")["error"] == "the disk is full"


RESET = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")


def follows(context: AnyContext, error: Exception) -> int:
    """The exit code of a process that meets ``error``; 0: it continues."""
    child = os.fork()
    if not child:
        run._end_like_killed_rank(context, error)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_rank_whose_peer_was_killed_ends_as_killed(context: AnyContext) -> None:
    """By the same signal, so that the batch script sends the job back into the queue."""
    assert follows(context, RESET) == -signal.SIGKILL
    assert not (context.directory / "failed.json").exists()


def test_a_rank_whose_peer_failed_does_not(context: AnyContext) -> None:
    run._record_failure(context, CheckpointError("the disk is full"))
    assert follows(context, RESET) == 0


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), CheckpointError("nfs: connection reset by peer")]
)
def test_a_rank_that_fails_for_a_reason_of_its_own_does_not(
    context: AnyContext, error: Exception
) -> None:
    assert follows(context, error) == 0
