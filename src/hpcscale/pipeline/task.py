"""The worker: runs tasks of a run directory by name, whoever started it and on however many ranks.

A task leaves ``done.json`` when it succeeds, ``failed.json`` when it fails, and neither when it is
killed, preempted, or finds an input missing. ``attempts.jsonl`` keeps a line for each end.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcscale.atomic import DONE, read_done, write_done, write_json
from hpcscale.errors import HpcscaleError, Preempted
from hpcscale.pipeline.context import Context, InputMissing, load_context
from hpcscale.train.signals import StopFlag

FAILED = "failed.json"
RUNNING = "running.json"
ATTEMPTS = "attempts.jsonl"


def run_tasks(run_dir: Path, task_ids: Sequence[str], flag: StopFlag | None = None) -> int:
    """Run tasks one after the other; the exit code of the first that failed, else 0.

    One failure does not sink the tasks behind it: those that need it find their input missing.
    Preempted passes through, since the tasks behind it will come back too.
    """
    worst = 0
    for task_id in task_ids:
        if flag is not None and flag.is_set():
            raise Preempted(f"stopped before {task_id}")
        context = load_context(
            run_dir,
            task_id,
            **({} if flag is None else {"stop": flag.is_set, "deferring": flag.deferring}),
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
        )
        worst = worst or _run(context)
    return worst


def run_tasks_entry(run_dir: str, task_ids: list[str]) -> int:
    """``run_tasks`` under signal handlers, for executors. SIGTERM and USR2 ask for a clean stop."""
    with StopFlag() as flag:
        code = run_tasks(Path(run_dir), task_ids, flag)
    if code == 0 and "torch.distributed" in sys.modules:
        from hpcscale.train.distributed import close_group

        close_group()
    return code


def _run(context: Context) -> int:
    directory = context.directory
    if read_done(directory, context.key) is not None:
        return 0
    started = time.time()
    if context.rank == 0:
        (directory / FAILED).unlink(missing_ok=True)
        (directory / DONE).unlink(missing_ok=True)
        write_json(directory / RUNNING, process_record() | {"started": started})
    outcome, code = "failed", 1
    try:
        step = importlib.import_module(f"hpcscale.pipeline.steps.{context.spec['kind']}")
        result = step.run(context)
        if context.rank == 0:
            write_done(directory, context.key, result.outputs, facts=result.facts)
        _meet(context)
        outcome, code = "done", 0
    except Preempted:
        outcome = "preempted"
        raise
    except InputMissing as error:
        outcome, code = "waiting", error.exit_code
        print(f"hpcscale: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except Exception as error:
        _record_failure(context, error)
        code = error.exit_code if isinstance(error, HpcscaleError) else 1
        if context.world_size > 1:
            # The other ranks may wait in a collective that this one will never join.
            os._exit(code)
    finally:
        if context.rank == 0:
            (directory / RUNNING).unlink(missing_ok=True)
            _record_attempt(context, outcome, started)
    return code


def _meet(context: Context) -> None:
    """No rank goes on to a task that reads this one before rank 0 has marked it done."""
    if context.world_size > 1:
        from hpcscale.train.distributed import Ranks

        Ranks.from_environment().barrier()


def _record_failure(context: Context, error: Exception) -> None:
    """The first rank that fails is the one worth reading; the others fail because of it."""
    trace = traceback.format_exc()
    print(trace, file=sys.stderr, flush=True)
    expected = isinstance(error, HpcscaleError)
    record = {
        "key": context.key,
        "error": str(error) if expected else f"{type(error).__name__}: {error}",
        "traceback": None if expected else trace,
        "rank": context.rank,
        "host": socket.gethostname(),
        "at": time.time(),
    }
    path = context.directory / FAILED
    if not path.exists():
        write_json(path, record)


def _record_attempt(context: Context, outcome: str, started: float) -> None:
    record = {
        "outcome": outcome,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "world_size": context.world_size,
        "started": started,
        "seconds": time.time() - started,
    }
    with open(context.directory / ATTEMPTS, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")


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
