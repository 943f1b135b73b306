"""A line for every attempt, whoever writes it; and when a scheduler's next one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcscale.errors import TaskError
from hpcscale.plan.kinds import SELECT, TRAIN
from hpcscale.rundir.attempts import killed_jobs, read_attempts
from hpcscale.worker import attempt
from hpcscale.worker.context import Context
from planning import context_of, some_task

AnyContext = Context[Any]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyContext:
    """A training that is array task 3 of job 5."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    return context_of(tmp_path, some_task(TRAIN), "cells/a")


def save(context: AnyContext, step: int) -> None:
    (context.directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (context.directory / "checkpoints" / f"step-{step + 9:08d}.partial").mkdir()


def do_steps(context: AnyContext, last: int) -> None:
    (context.directory / "metrics.jsonl").write_text("{}\n" * last)


def test_the_next_attempt_writes_the_line_of_one_that_was_killed(context: AnyContext) -> None:
    attempt.begin(context, 20)
    do_steps(context, 7)
    save(context, 4)
    attempt.begin(context, 20)
    context.from_step = 4
    context.lead.note_step(2.0)
    context.lead.note_save(1.0)
    do_steps(context, 9)
    attempt.end(context, "done")
    attempt.end(context, "done")
    killed, done = read_attempts(context.directory)
    assert (killed["outcome"], killed["from_step"], killed["step"]) == ("killed", 0, 7)
    assert (done["outcome"], done["from_step"], done["step"]) == ("done", 4, 9)
    assert (done["job"], done["lead_seconds"]) == ("5_3", 3.0)
    assert killed["seconds"] >= 0
    assert killed_jobs(context.directory) == {"5"}


def test_two_attempts_without_a_new_checkpoint_are_the_last(context: AnyContext) -> None:
    save(context, 4)
    for _ in range(2):
        attempt.begin(context, 20)
        attempt.end(context, "preempted")
    with pytest.raises(TaskError, match=r"the last 2 attempts began at step 4 .*job 5_3 is not"):
        attempt.begin(context, 20)
    save(context, 8)
    attempt.begin(context, 20)


def test_a_new_job_tries_again(context: AnyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        attempt.begin(context, 20)
        attempt.end(context, "preempted")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    attempt.begin(context, 20)


def test_restarts_are_capped(context: AnyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt.begin(context, 1)
    attempt.end(context, "preempted")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    save(context, 4)
    attempt.begin(context, 1)
    attempt.end(context, "preempted")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with pytest.raises(TaskError, match="restarted 1 times, which is the site's max_restarts"):
        attempt.begin(context, 1)


def test_what_trains_nothing_is_not_judged_by_steps(context: AnyContext) -> None:
    selection = context_of(context.run_dir, some_task(SELECT), "selections/a")
    for _ in range(4):
        attempt.begin(selection, 20)
        attempt.end(selection, "preempted")
    assert "step" not in read_attempts(selection.directory)[0]


def test_other_ranks_write_no_line(context: AnyContext) -> None:
    attempt.begin(context, 20)
    context.rank = 1
    attempt.end(context, "done")
    assert read_attempts(context.directory) == []
