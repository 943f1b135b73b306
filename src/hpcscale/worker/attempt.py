"""Record the start and end of an attempt at a task, and refuse attempts that gain nothing."""

from __future__ import annotations

import sys
from typing import Any

from hpcscale.cluster.restart import job_name, restarts
from hpcscale.errors import TaskError
from hpcscale.plan.kinds import Passes
from hpcscale.rundir.attempts import (
    newest_checkpoint,
    note_killed,
    read_attempts,
    record_end,
    record_start,
)
from hpcscale.rundir.layout import ATTEMPTS
from hpcscale.worker.context import AnyContext

#: After this many attempts of one job in a row without a new checkpoint, no more are made.
_WITHOUT_GAIN = 2


def begin(context: AnyContext, max_restarts: int | None) -> None:
    """Record that an attempt starts; on rank 0. ``max_restarts``: None without a scheduler.

    Raises TaskError where the job was restarted more often, or its last attempts saved nothing.
    """
    directory = context.directory
    note_killed(directory)
    job = job_name()
    at_step = newest_checkpoint(directory) if context.kind.passes is Passes.TRAIN else None
    if max_restarts is not None and job is not None:
        mine = [line for line in read_attempts(directory) if line["job"] == job]
        _check_restarts(context, mine, max_restarts, at_step)
    record_start(directory, job=job, world_size=context.world_size, from_step=at_step)


def end(context: AnyContext, outcome: str) -> None:
    """Record the end of the attempt, once; other ranks than 0 do nothing."""
    if context.rank:
        return
    try:
        record_end(context.directory, outcome, context.from_step, context.lead.seconds or None)
    except OSError as full:
        print(f"hpcscale: {context.directory / ATTEMPTS}: {full}", file=sys.stderr, flush=True)


def _check_restarts(
    context: AnyContext, mine: list[dict[str, Any]], max_restarts: int, at_step: int | None
) -> None:
    """``mine``: the attempts of this job at this task."""
    again = "then run the same `hpcscale sweep` again, which continues from what is saved"
    name = context.file.name
    if mine and restarts() > max_restarts:
        raise TaskError(
            f"{name}: job {job_name()} was restarted {max_restarts} times, which is the site's "
            f"max_restarts; see {context.directory / ATTEMPTS} for how its attempts ended, {again}"
        )
    last = mine[-_WITHOUT_GAIN:]
    if (
        at_step is not None
        and [line.get("from_step") for line in last] == [at_step] * _WITHOUT_GAIN
    ):
        ends = " and ".join(line["outcome"] for line in last)
        raise TaskError(
            f"{name}: the last {_WITHOUT_GAIN} attempts began at step {at_step} and ended "
            f"({ends}) before a later one was saved, so job {job_name()} is not started again; "
            "save more often (train.checkpoint.every) or give the job more time "
            f"(resources.{context.file.stage}.time), {again}"
        )
