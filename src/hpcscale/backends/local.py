"""Run a plan on this machine: as many array tasks side by side as its cores and GPUs allow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hpcscale.atomic import write_json
from hpcscale.backends.base import Backend, Say, Submission
from hpcscale.backends.display import Display
from hpcscale.cluster.local import LocalJob, core_count, gpu_count, start
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import Preempted
from hpcscale.plan.array_tasks import ArrayTask
from hpcscale.plan.resources import Machine
from hpcscale.rundir.attempts import note_killed
from hpcscale.rundir.layout import DONE, FAILED, RUNNING, log_file
from hpcscale.rundir.state import forget_earlier_end

_POLL = 0.05
_GRACE = 60.0


class Interrupted(Preempted):
    """Ctrl-C or SIGTERM stopped a local sweep; the next call continues it."""

    exit_code = 130


@dataclass
class _Slots:
    """The free cores and GPUs; an array task that needs more cores than exist runs alone."""

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
    array_task: ArrayTask
    job: LocalJob
    cores: int
    gpus: list[int]


class Local(Backend):
    """Worker processes on this machine."""

    name = "local"

    def affinity(self) -> int:
        return 1

    def machine(self, profile: SiteProfile) -> Machine:
        return this_machine()

    def start(self, submission: Submission, display: Display, say: Say) -> bool:
        """Raises Interrupted on Ctrl-C, after the running tasks have saved their state."""
        run = _Run(submission, display)
        with display, _interruptible() as interrupted:
            try:
                while run.waiting or run.running:
                    if interrupted():
                        raise Interrupted("stopped")
                    run.drop_what_cannot_start()
                    run.launch()
                    run.collect()
                    display.refresh([item.array_task for item in run.running])
            except Interrupted:
                _stop(run.running, display)
                raise
        return all(task.id in run.done for task in submission.tasks)


def this_machine() -> Machine:
    return Machine(gpu_count(), core_count(), side_by_side=True)


class _Run:
    """The waiting, running and finished tasks of one submission."""

    def __init__(self, submission: Submission, display: Display) -> None:
        self.run_dir, self.display = submission.run_dir, display
        order = {task.id: number for number, task in enumerate(submission.tasks)}
        self.waiting = sorted(
            ((one, array.resources) for array in submission.arrays for one in array.array_tasks),
            key=lambda item: order[item[0].ids[0]],
        )
        self.running: list[_Running] = []
        self.done = set(submission.done)
        self.pending = {task.id for task in submission.tasks}
        self.slots = _Slots()

    def launch(self) -> None:
        """Start the array tasks whose inputs are done and that fit into what is free."""
        left = []
        for one, asked in self.waiting:
            ready = one.reads() <= self.done and not one.follows() & self.pending
            if ready and self.slots.fits(asked, all_free=not self.running):
                self.running.append(self._start(one, asked))
            else:
                left.append((one, asked))
        self.waiting = left

    def drop_what_cannot_start(self) -> None:
        """Drop array tasks with an input that is neither done nor pending: it has failed."""
        before = -1
        while len(self.waiting) != before:
            before, left = len(self.waiting), []
            for one, asked in self.waiting:
                if one.reads() - self.done - self.pending:
                    self.pending -= set(one.ids)
                else:
                    left.append((one, asked))
            self.waiting = left

    def collect(self) -> None:
        """Wait a moment, then handle the array tasks that have ended."""
        if not self.running:
            return
        time.sleep(_POLL)
        for item in list(self.running):
            code = item.job.poll()
            if code is None:
                continue
            self.running.remove(item)
            self.slots.cores += item.cores
            self.slots.gpus = sorted(self.slots.gpus + item.gpus)
            self._end(item.array_task, code)

    def _start(self, one: ArrayTask, asked: Resources) -> _Running:
        assert isinstance(asked.gpus, int)
        assert isinstance(asked.cpus, int)
        cores = _cores(asked)
        gpus, self.slots.gpus = self.slots.gpus[: asked.gpus], self.slots.gpus[asked.gpus :]
        self.slots.cores -= cores
        for task_id in one.ids:
            forget_earlier_end(self.run_dir / task_id)
        job = start(
            self.run_dir,
            one.ids,
            ranks=asked.gpus or asked.ranks,
            cpus=asked.cpus,
            gpus=gpus,
            log=log_file(self.run_dir, one.ids[0]),
        )
        return _Running(one, job, cores, gpus)

    def _end(self, one: ArrayTask, code: int) -> None:
        ended = [task for task in one.tasks if (self.run_dir / task.id / DONE).exists()]
        self.pending -= set(one.ids)
        self.done.update(task.id for task in ended)
        self.display.finished(*ended)
        for task in one.tasks:
            if task not in ended:
                _note_death(self.run_dir / task.id, task.key, code)
                self.display.failed(task, log_file(self.run_dir, one.ids[0]))


def _note_death(directory: Path, key: str, code: int) -> None:
    """Record the failure of a process that a signal killed, since it could not do so itself."""
    if code < 0 and (directory / RUNNING).exists():
        note_killed(directory)
        if not (directory / FAILED).exists():
            reason = f"killed by signal {-code} ({signal.Signals(-code).name})"
            write_json(directory / FAILED, {"key": key, "error": reason, "at": time.time()})


def _stop(running: list[_Running], display: Display) -> None:
    """Let the running tasks save and end; a second Ctrl-C, or a minute, ends them at once."""
    display.say(f"stopping {len(running)} running tasks; they save first (Ctrl-C again: at once)")
    deadline = time.monotonic() + _GRACE
    try:
        for item in running:
            # Tasks with a fixed directory have nothing to save.
            fixed = item.array_task.tasks[0].kind.fixed
            item.job.kill() if fixed else item.job.terminate()
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
