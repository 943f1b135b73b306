"""Attempts at a task: a line for each end, whoever could write it, and when the next is pointless.

An attempt that is killed cannot write its line. It leaves ``running.json``, and whoever finds that
writes the line for it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json, write_json
from hpcscale.cluster.restart import job_name, restarts
from hpcscale.errors import TaskError
from hpcscale.worker.context import PROGRESS, Context

ATTEMPTS = "attempts.jsonl"
RUNNING = "running.json"
_CHECKPOINTS = "checkpoints"
_METRICS = "metrics.jsonl"
#: So many attempts of one job in a row without a new checkpoint are the last.
_WITHOUT_GAIN = 2


def begin(context: Context, max_restarts: int | None) -> None:
    """Record that an attempt starts; on rank 0. ``max_restarts``: None where nobody restarts.

    Raises TaskError where the scheduler has restarted the task often enough, or in vain.
    """
    directory = context.directory
    note_killed(directory)
    job = job_name()
    at_step = newest_checkpoint(directory) if "train" in context.params else None
    if max_restarts is not None and job is not None:
        mine = [line for line in read_attempts(directory) if line["job"] == job]
        _check_restarts(context, mine, max_restarts, at_step)
    record = {
        **process_record(),
        "job": job,
        "world_size": context.world_size,
        "started": time.time(),
        "from_step": at_step,
    }
    write_json(directory / RUNNING, record)


def end(context: Context, outcome: str) -> None:
    """The line of the attempt that began here, once; of rank 0 alone."""
    directory = context.directory
    if context.rank or not (directory / RUNNING).exists():
        return
    record = read_json(directory / RUNNING)
    if context.from_step is not None:
        record["from_step"] = context.from_step
    seconds = time.time() - record["started"]
    try:
        _append(directory, record, outcome, seconds, context.lead.seconds or None)
    except OSError as full:
        print(f"hpcscale: {directory / ATTEMPTS}: {full}", file=sys.stderr, flush=True)
    (directory / RUNNING).unlink()


def note_killed(directory: Path) -> None:
    """Write the line of an attempt that is over and did not write it, if there is one."""
    try:
        record = read_json(directory / RUNNING)
    except TaskError:
        (directory / RUNNING).unlink(missing_ok=True)
        return
    signs = [directory / name for name in (RUNNING, PROGRESS, _METRICS)]
    last = max(path.stat().st_mtime for path in signs if path.exists())
    _append(directory, record, "killed", max(0.0, last - record["started"]), None)
    (directory / RUNNING).unlink()


def _append(
    directory: Path, record: dict[str, Any], outcome: str, seconds: float, lead: float | None
) -> None:
    kept = {name: value for name, value in record.items() if name != "born"}
    line = {"outcome": outcome, **kept, "seconds": seconds}
    if record["from_step"] is not None:
        line |= {"step": _steps_done(directory), "lead_seconds": lead}
    with open(directory / ATTEMPTS, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


def _check_restarts(
    context: Context, mine: list[dict[str, Any]], max_restarts: int, at_step: int | None
) -> None:
    """``mine``: the attempts of this job at this task."""
    again = "then run the same `hpcscale sweep` again, which goes on from what is saved"
    name = context.spec["name"]
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
            f"(resources.{context.spec['stage']}.time), {again}"
        )


def read_attempts(directory: Path) -> list[dict[str, Any]]:
    """The lines that are whole, oldest first."""
    try:
        text = (directory / ATTEMPTS).read_text(encoding="utf-8")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(dict(json.loads(line)))
        except ValueError:
            continue  # the write that a kill cut short
    return lines


def killed_jobs(directory: Path) -> set[str]:
    """The jobs, or their arrays, of attempts that ended without a word, or have not ended."""
    lines = [line for line in read_attempts(directory) if line["outcome"] == "killed"]
    with suppress(TaskError):
        lines.append(read_json(directory / RUNNING))
    return {str(line["job"]).partition("_")[0] for line in lines if line.get("job")}


def newest_checkpoint(directory: Path) -> int:
    """The step of the newest whole checkpoint of a training; 0 where there is none."""
    names = [path.name for path in (directory / _CHECKPOINTS).glob("step-*")]
    return max((int(name[5:]) for name in names if name[5:].isdigit()), default=0)


def _steps_done(directory: Path) -> int:
    """Steps that the metrics of a training hold."""
    path = directory / _METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def process_record() -> dict[str, Any]:
    """Names this process well enough to tell later whether it still lives."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "born": process_birth(pid)}


def process_birth(pid: int) -> str | None:
    """The kernel's start time of ``pid``, so that a reused number is not taken for it.

    None where no such process runs, a zombie included.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
