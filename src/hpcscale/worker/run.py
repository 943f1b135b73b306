"""The worker: runs tasks of a run directory by id, for any back end and any number of ranks.

A task leaves ``done.json`` when it succeeds, ``failed.json`` when it fails, and neither when it is
killed, preempted, or finds an input missing.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from hpcscale.atomic import read_done, write_done, write_json
from hpcscale.cluster.restart import fail
from hpcscale.errors import HpcscaleError, OtherRankFailed, Preempted
from hpcscale.rundir.layout import DONE, FAILED
from hpcscale.train.signals import StopFlag
from hpcscale.worker import attempt
from hpcscale.worker.context import AnyContext, InputMissing, StepResult, load_context

_CAUSE_FIRST = 2.0


def run_tasks(
    run_dir: Path,
    task_ids: Sequence[str],
    flag: StopFlag | None = None,
    max_restarts: int | None = None,
) -> int:
    """Run tasks one after the other; the exit code of the first that failed, else 0.

    ``max_restarts``: how often a scheduler may restart the job; None where it does not. After a
    failure the next tasks still run; a task that needs the failed one finds its input missing.
    Raises Preempted, since the scheduler restarts the remaining tasks too.
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
        code = _run(context, max_restarts)
        worst = worst or code
    return worst


def run_tasks_entry(run_dir: str, task_ids: list[str], max_restarts: int | None = None) -> int:
    """``run_tasks`` under signal handlers, for executors. SIGTERM and USR2 ask for a clean stop."""
    with StopFlag() as flag:
        code = run_tasks(Path(run_dir), task_ids, flag, max_restarts)
    if code == 0 and "torch.distributed" in sys.modules:
        from hpcscale.train.distributed import close_group

        close_group()
    return code


def _run(context: AnyContext, max_restarts: int | None) -> int:
    directory = context.directory
    if read_done(directory, context.key) is not None:
        return 0
    outcome, code = "failed", 1
    try:
        if context.rank == 0:
            (directory / FAILED).unlink(missing_ok=True)
            (directory / DONE).unlink(missing_ok=True)
            attempt.begin(context, max_restarts)
        step = importlib.import_module(f"hpcscale.worker.steps.{context.kind.step}")
        result = step.run(context)
        if context.rank == 0:
            _finish(context, result)
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
        if context.world_size > 1:
            _end_like_killed_rank(context, error)
        _record_failure(context, error)
        code = error.exit_code if isinstance(error, HpcscaleError) else 1
        if context.world_size > 1:
            # The other ranks may wait in a collective that this one will never join.
            attempt.end(context, outcome)
            fail()
    finally:
        attempt.end(context, outcome)
    return code


def _finish(context: AnyContext, result: StepResult) -> None:
    """Mark the task as done, then delete what only an unfinished task needs. A stop waits."""
    with context.deferring():
        write_done(context.directory, context.key, result.outputs, facts=result.facts)
        for name in result.temporary:
            shutil.rmtree(context.directory / name, ignore_errors=True)
        result.on_done()


def _meet(context: AnyContext) -> None:
    """Wait until rank 0 has marked the task as done, since the next task may read it."""
    if context.world_size > 1:
        from hpcscale.train.distributed import Ranks

        Ranks.from_environment().barrier()


def _end_like_killed_rank(context: AnyContext, error: Exception) -> None:
    """Where another rank was killed, end by SIGKILL too: the task may succeed when restarted.

    A rank that failed has written ``failed.json`` before it ended, or is about to.
    """
    from hpcscale.train.distributed import peer_is_gone

    if not peer_is_gone(error) or _appears(context.directory / FAILED, _CAUSE_FIRST):
        return
    print(
        f"hpcscale: another rank was killed, so rank {context.rank} ends too: {error}",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _appears(path: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path.exists()


def _record_failure(context: AnyContext, error: Exception) -> None:
    """Write ``failed.json``, unless another rank has: others fail because the first one did."""
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
    wait = _CAUSE_FIRST if isinstance(error, OtherRankFailed) else 0.0
    if not _appears(path, wait):
        try:
            write_json(path, record)
        except OSError as full:
            print(f"hpcscale: {path} cannot be written: {full}", file=sys.stderr, flush=True)
