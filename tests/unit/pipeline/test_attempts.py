"""A line for every attempt, whoever writes it; and when a scheduler's next one is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import read_done, read_json
from hpcscale.errors import CheckpointError, OtherRankFailed, TaskError
from hpcscale.rundir import attempts
from hpcscale.worker import run as task
from hpcscale.worker.context import Context, StepResult


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A training that is element 3 of job 5."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (tmp_path / "cells" / "a").mkdir(parents=True)
    return Context(tmp_path, _spec("cells/a", {"train": {}}))


def _spec(name: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "name": name, "key": "key", "kind": "train", "stage": "train",
            "params": params, "decides": {}, "inputs": {}}  # fmt: skip


def save(context: Context, step: int) -> None:
    (context.directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (context.directory / "checkpoints" / f"step-{step + 9:08d}.partial").mkdir()


def do_steps(context: Context, last: int) -> None:
    (context.directory / "metrics.jsonl").write_text("{}\n" * last)


def test_the_next_attempt_writes_the_line_of_one_that_was_killed(context: Context) -> None:
    attempts.begin(context, 20)
    do_steps(context, 7)
    save(context, 4)
    attempts.begin(context, 20)
    context.from_step = 4
    context.lead.note_step(2.0)
    context.lead.note_save(1.0)
    do_steps(context, 9)
    attempts.end(context, "done")
    attempts.end(context, "done")
    killed, done = attempts.read_attempts(context.directory)
    assert (killed["outcome"], killed["from_step"], killed["step"]) == ("killed", 0, 7)
    assert (done["outcome"], done["from_step"], done["step"]) == ("done", 4, 9)
    assert (done["job"], done["lead_seconds"]) == ("5_3", 3.0)
    assert killed["seconds"] >= 0
    assert attempts.killed_jobs(context.directory) == {"5"}


def test_two_attempts_without_a_new_checkpoint_are_the_last(context: Context) -> None:
    save(context, 4)
    for _ in range(2):
        attempts.begin(context, 20)
        attempts.end(context, "preempted")
    with pytest.raises(TaskError, match=r"the last 2 attempts began at step 4 .*job 5_3 is not"):
        attempts.begin(context, 20)
    save(context, 8)
    attempts.begin(context, 20)


def test_a_new_job_tries_again(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        attempts.begin(context, 20)
        attempts.end(context, "preempted")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    attempts.begin(context, 20)


def test_restarts_are_capped(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts.begin(context, 1)
    attempts.end(context, "preempted")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    save(context, 4)
    attempts.begin(context, 1)
    attempts.end(context, "preempted")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with pytest.raises(TaskError, match="restarted 1 times, which is the site's max_restarts"):
        attempts.begin(context, 1)


def test_what_trains_nothing_is_not_judged_by_steps(context: Context) -> None:
    context.spec["params"] = {}
    for _ in range(4):
        attempts.begin(context, 20)
        attempts.end(context, "preempted")
    assert "step" not in attempts.read_attempts(context.directory)[0]


def test_checkpoints_go_once_the_task_is_done(context: Context) -> None:
    save(context, 4)
    (context.directory / "out").write_text("x")
    task._finish(context, StepResult(["out"], {"a": 1}, scrap=("checkpoints",)))
    assert read_done(context.directory, "key") is not None
    assert not (context.directory / "checkpoints").exists()
    save(context, 4)
    with pytest.raises(FileNotFoundError):
        task._finish(context, StepResult(["lost"], scrap=("checkpoints",)))
    assert attempts.newest_checkpoint(context.directory) == 4


def test_one_failure_does_not_keep_the_tasks_behind_it_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(context: Context, max_restarts: int | None) -> int:
        ran.append(context.spec["name"])
        return int(context.spec["name"] == "a")

    monkeypatch.setattr(
        task, "load_context", lambda _, name, **__: Context(tmp_path, {"name": name})
    )
    monkeypatch.setattr(task, "_run", run)
    assert task.run_tasks(tmp_path, ["a", "b"]) == 1
    assert ran == ["a", "b"]


def test_the_rank_that_knows_why_is_heard_first(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 sees that rank 0 failed before rank 0 has written why."""

    def meanwhile(seconds: float) -> None:
        task._record_failure(context, CheckpointError("the disk is full"))

    monkeypatch.setattr(task.time, "sleep", meanwhile)
    task._record_failure(context, OtherRankFailed("another rank knows"))
    assert read_json(context.directory / "failed.json")["error"] == "the disk is full"


RESET = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")


def follows(context: Context, error: Exception) -> int:
    """The exit code of a process that meets ``error``; 0: it goes on."""
    child = os.fork()
    if not child:
        task._follow_the_dead(context, error)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_rank_whose_peer_was_killed_ends_as_killed(context: Context) -> None:
    """By the same signal, so that the batch script sends the job back into the queue."""
    assert follows(context, RESET) == -signal.SIGKILL
    assert not (context.directory / "failed.json").exists()


def test_a_rank_whose_peer_failed_does_not(context: Context) -> None:
    task._record_failure(context, CheckpointError("the disk is full"))
    assert follows(context, RESET) == 0


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), CheckpointError("nfs: connection reset by peer")]
)
def test_a_rank_that_fails_for_a_reason_of_its_own_does_not(
    context: Context, error: Exception
) -> None:
    assert follows(context, error) == 0
