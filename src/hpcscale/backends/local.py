"""Running a plan on this machine: as many elements side by side as its cores and GPUs carry."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hpcscale.atomic import DONE, write_json
from hpcscale.backends.display import Display
from hpcscale.cluster.local import LocalJob, core_count, gpu_count, start
from hpcscale.config.resources import Resources
from hpcscale.errors import Preempted
from hpcscale.opened import Plan, Sweep
from hpcscale.plan.array_tasks import ArrayTask, group
from hpcscale.rundir.attempts import RUNNING, note_killed
from hpcscale.rundir.state import JOB, State
from hpcscale.worker.run import FAILED

_POLL = 0.05
_GRACE = 60.0


class Interrupted(Preempted):
    """Ctrl-C or SIGTERM stopped a local sweep; its run directory can go on."""

    exit_code = 130


@dataclass
class _Slots:
    """What is free of this machine; an element larger than all of it runs alone."""

    cores: int = field(default_factory=core_count)
    gpus: list[int] = field(default_factory=lambda: list(range(gpu_count())))

    def fits(self, asked: Resources, all_free: bool) -> bool:
        assert isinstance(asked.gpus, int)
        if asked.gpus > len(self.gpus):
            return False
        return all_free or asked.gpus > 0 or _cores(asked) <= self.cores


def _cores(asked: Resources) -> int:
    assert isinstance(asked.cpus, int)
    return asked.cpus * asked.ranks


@dataclass
class _Running:
    element: ArrayTask
    job: LocalJob
    cores: int
    gpus: list[int]


def run_local(sweep: Sweep, plan: Plan, display: Display, report: bool = True) -> bool:
    """Run what the plan starts; True when everything that it needs is done.

    A failed task leaves the cells that do not need it running. Raises Interrupted on Ctrl-C,
    after the running tasks have saved their state.
    """
    waiting = group([task for task in plan.start if task is not sweep.analysis])
    done = {name for name, state in plan.states.items() if state.state is State.DONE}
    running: list[_Running] = []
    slots = _Slots()
    with _interruptible() as interrupted:
        try:
            while waiting or running:
                if interrupted():
                    raise Interrupted("stopped")
                waiting = _launch(sweep, waiting, running, slots, done)
                if not running:
                    break  # what still waits needs something that failed
                _collect(sweep, running, slots, done, display)
                display.refresh([r.element for r in running])
            if sweep.analysis in plan.start:
                _run_analysis(sweep, slots, done, display, interrupted)
        except Interrupted:
            _stop(running, display)
            raise
    wanted = (*plan.needed, sweep.analysis) if report else plan.needed
    return all(task.id in done for task in wanted)


def _launch(
    sweep: Sweep, waiting: list[ArrayTask], running: list[_Running], slots: _Slots, done: set[str]
) -> list[ArrayTask]:
    left = []
    for element in waiting:
        asked = sweep.resources(element.stage)
        if element.waits_for() <= done and slots.fits(asked, all_free=not running):
            running.append(_start(sweep, element, asked, slots))
        else:
            left.append(element)
    return left


def _start(sweep: Sweep, element: ArrayTask, asked: Resources, slots: _Slots) -> _Running:
    assert isinstance(asked.gpus, int)
    assert isinstance(asked.cpus, int)
    cores = _cores(asked)
    gpus, slots.gpus = slots.gpus[: asked.gpus], slots.gpus[asked.gpus :]
    slots.cores -= cores
    for task_id in element.ids:
        (sweep.run_dir / task_id / JOB).unlink(missing_ok=True)
        (sweep.run_dir / task_id / FAILED).unlink(missing_ok=True)
    job = start(
        sweep.run_dir,
        element.ids,
        ranks=asked.gpus or asked.ranks,
        cpus=asked.cpus,
        gpus=gpus,
        log=log_path(sweep.run_dir, element),
    )
    return _Running(element, job, cores, gpus)


def log_path(run_dir: Path, element: ArrayTask) -> Path:
    return run_dir / "logs" / f"{element.ids[0].replace('/', '-')}.log"


def _collect(
    sweep: Sweep, running: list[_Running], slots: _Slots, done: set[str], display: Display
) -> None:
    """Wait a moment, then take in what has ended."""
    time.sleep(_POLL)
    for item in list(running):
        code = item.job.poll()
        if code is None:
            continue
        running.remove(item)
        slots.cores += item.cores
        slots.gpus = sorted(slots.gpus + item.gpus)
        ended = [t for t in item.element.tasks if (sweep.run_dir / t.id / DONE).exists()]
        done.update(task.id for task in ended)
        display.finished(*ended)
        for task in item.element.tasks:
            if task not in ended:
                _note_death(sweep, task.id, task.key, code)
                display.failed(task, log_path(sweep.run_dir, item.element))


def _note_death(sweep: Sweep, task_id: str, key: str, code: int) -> None:
    """A process killed from outside could not say so itself."""
    directory = sweep.run_dir / task_id
    if code < 0 and (directory / RUNNING).exists():
        note_killed(directory)
        if not (directory / FAILED).exists():
            reason = f"killed by signal {-code} ({signal.Signals(-code).name})"
            write_json(directory / FAILED, {"key": key, "error": reason, "at": time.time()})


def _run_analysis(
    sweep: Sweep, slots: _Slots, done: set[str], display: Display, interrupted: Callable[[], bool]
) -> None:
    element = ArrayTask((sweep.analysis,))
    job = [_start(sweep, element, sweep.resources("analyse"), slots)]
    while job:
        if interrupted():
            job[0].job.kill()
            raise Interrupted("stopped")
        _collect(sweep, job, slots, done, display)


def _stop(running: list[_Running], display: Display) -> None:
    """Let the running tasks save and end; a second Ctrl-C, or a minute, ends them at once."""
    display.say(f"stopping {len(running)} running tasks; they save first (Ctrl-C again: at once)")
    deadline = time.monotonic() + _GRACE
    try:
        for item in running:
            item.job.terminate()
        while any(item.job.poll() is None for item in running) and time.monotonic() < deadline:
            time.sleep(_POLL)
    except KeyboardInterrupt:
        pass
    finally:
        for item in running:
            item.job.kill()


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, and the second into KeyboardInterrupt."""
    seen: list[int] = []

    def note(signum: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
