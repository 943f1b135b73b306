"""Attempts at a task: ``attempts.jsonl`` has a line for each that has ended.

An attempt that is killed cannot write its line. It leaves ``running.json``, and the next process
that finds this file writes the line.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json, write_json
from hpcscale.errors import TaskError
from hpcscale.rundir.layout import ATTEMPTS, CHECKPOINTS, METRICS, PROGRESS, RUNNING


def record_start(directory: Path, **facts: Any) -> None:
    """Write ``running.json``: this process, when it started, and ``facts``."""
    write_json(directory / RUNNING, {**process_record(), "started": time.time(), **facts})


def record_end(directory: Path, outcome: str, from_step: int | None, lead: float | None) -> None:
    """Write the line of the attempt that ``running.json`` describes, and delete that file.

    Does nothing without the file. from_step: the step that a training continued from; None keeps
    the recorded one. lead: seconds that a stop takes. Raises OSError where the disk is full.
    """
    if not (directory / RUNNING).exists():
        return
    record = read_json(directory / RUNNING)
    if from_step is not None:
        record["from_step"] = from_step
    try:
        _append(directory, record, outcome, time.time() - record["started"], lead)
    finally:
        (directory / RUNNING).unlink()


def note_killed(directory: Path) -> None:
    """Write the line of an attempt that was killed before it could, if there is one."""
    try:
        record = read_json(directory / RUNNING)
    except TaskError:
        (directory / RUNNING).unlink(missing_ok=True)
        return
    signs = [directory / name for name in (RUNNING, PROGRESS, METRICS)]
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


def read_attempts(directory: Path) -> list[dict[str, Any]]:
    """The complete lines, oldest first."""
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
    """Jobs of attempts that were killed or have not ended; an array counts as one job."""
    lines = [line for line in read_attempts(directory) if line["outcome"] == "killed"]
    with suppress(TaskError):
        lines.append(read_json(directory / RUNNING))
    return {str(line["job"]).partition("_")[0] for line in lines if line.get("job")}


def newest_checkpoint(directory: Path) -> int:
    """The step of the newest complete checkpoint of a training; 0 where there is none."""
    names = [path.name for path in (directory / CHECKPOINTS).glob("step-*")]
    return max((int(name[5:]) for name in names if name[5:].isdigit()), default=0)


def _steps_done(directory: Path) -> int:
    """The number of steps in the metrics of a training."""
    path = directory / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def process_record() -> dict[str, Any]:
    """What identifies this process, so that it can be checked later whether it still runs."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "born": process_birth(pid)}


def process_birth(pid: int) -> str | None:
    """When process ``pid`` started, by the kernel; a later process with this number differs.

    None where no such process runs, or it is a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
