"""What a back end is: it runs the tasks of a sweep on some machine.

A package adds one by an entry point in the group ``hpcscale.backends`` that names a subclass of
``Backend``, or of ``Queue`` where jobs are submitted and continue without the caller;
docs/adding-a-back-end.md shows one.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hpcscale.backends.display import Display
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.plan.array_tasks import Array
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.resources import Machine
from hpcscale.rundir.state import Job, Liveness, write_job

Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """What is to run. arrays: each behind those that it waits for. tasks: the same in order.

    done: ids of finished tasks. jobs: of tasks that an earlier call submitted and that are alive.
    avoid: nodes that no job may get.
    """

    name: str
    run_dir: Path
    profile: SiteProfile
    tasks: tuple[AnyTask, ...]
    arrays: tuple[Array, ...]
    done: frozenset[str]
    jobs: Mapping[str, Job] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()

    def job_name(self, array: Array) -> str:
        return f"{self.name}-{array.stage}"


class Backend(ABC):
    """name: of the option ``--executor``. here: tasks run on this machine and end with the call."""

    name: ClassVar[str]
    here: ClassVar[bool] = True

    def affinity(self) -> int:
        """How well the back end suits this machine; ``--executor auto`` takes the highest above
        0."""
        return 0

    def problem(self) -> str | None:
        """Why it cannot be used here, as a sentence; None: it can."""
        return None

    @abstractmethod
    def machine(self, profile: SiteProfile) -> Machine:
        """What one node offers."""

    def check(self, profile: SiteProfile, partitions: Collection[str]) -> None:
        """Raises ClusterError for what the scheduler would refuse later."""
        return

    def notes(self, profile: SiteProfile) -> list[str]:
        """What a user should know before anything is submitted."""
        return []

    @abstractmethod
    def start(self, submission: Submission, display: Display, say: Say) -> bool:
        """Run the arrays; True when every task is done or, for a queue, submitted.

        A task that fails leaves those running that do not need it.
        """

    def preview(self, submission: Submission) -> list[str]:
        """What a dry run shows of each array, such as its script."""
        return []

    def alive(self, jobs: Sequence[str]) -> dict[str, Liveness]:
        """What the scheduler says of jobs; a job that is not known is gone."""
        return {}

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """What became of jobs that are gone, in the scheduler's words, where it still knows."""
        return {}

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs; those that are gone do no harm."""
        return

    def bad_nodes(self, jobs: Sequence[str]) -> list[str]:
        """Nodes that went down under two of ``jobs`` or more."""
        return []

    def stop_lead(self, profile: SiteProfile, resources: Resources) -> int | None:
        """Seconds between the signal to stop and the end of a job; None: no such signal."""
        return None


class Queue(Backend):
    """A back end whose jobs continue without the caller. A subclass gives ``machine``, ``submit``
    and ``alive``, and ``cancel`` where jobs can be cancelled."""

    here = False

    @abstractmethod
    def submit(self, submission: Submission, array: Array, after: Sequence[str]) -> list[str]:
        """Submit one array, and return the id of the job of each array task.

        The jobs start once all jobs of ``after`` have ended, in whatever way, and call
        ``worker_command`` or ``hpcscale.worker.run.run_tasks_entry``.
        """

    def start(self, submission: Submission, display: Display, say: Say) -> bool:
        """Submit array by array; what was submitted is known also where a later one is refused."""
        jobs = {name: job.id for name, job in submission.jobs.items()}
        for array in submission.arrays:
            after = sorted({jobs[name] for name in array.waits_for() if name in jobs})
            ids = self.submit(submission, array, after)
            for one, job in zip(array.array_tasks, ids, strict=True):
                for task in one.tasks:
                    write_job(submission.run_dir / task.id, Job(self.name, job), time.time())
                    jobs[task.id] = job
            said = ", ".join(dict.fromkeys(self.array_of(job) for job in ids))
            size = f"{len(ids)} array tasks as job array" if len(ids) > 1 else "job"
            say(f"submitted {array.stage}: {size} {said}")
        return True

    def array_of(self, job: str) -> str:
        """The array that a job is part of, as the scheduler names it."""
        return job


def worker_command(run_dir: Path, task_ids: Sequence[str]) -> list[str]:
    """The command that runs the tasks one after the other, as one rank."""
    python = [sys.executable, "-m", "hpcscale.cli.main"]
    return [*python, "task", str(run_dir.absolute()), *task_ids]
