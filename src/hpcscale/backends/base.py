"""The interface of a back end, which runs the tasks of a sweep on some machine.

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

#: Prints a line for the user.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """What must run. arrays: each comes after the arrays it waits for. tasks: all of their tasks,
    inputs first.

    done: ids of finished tasks. jobs: by task id, jobs of an earlier call that are alive. avoid:
    nodes that no job may get.
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
    """name: the value of ``--executor`` that selects it. here: whether tasks run on this machine
    and end with the call."""

    name: ClassVar[str]
    here: ClassVar[bool] = True

    def affinity(self) -> int:
        """How well the back end suits this machine; ``--executor auto`` takes the highest. 0: never
        take it."""
        return 0

    def problem(self) -> str | None:
        """Why the back end cannot be used here, as a sentence; None where it can."""
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

        A failed task stops only the tasks that need it.
        """

    def preview(self, submission: Submission) -> list[str]:
        """What a dry run shows of each array, such as its script."""
        return []

    def alive(self, jobs: Sequence[str]) -> dict[str, Liveness]:
        """The state of each job that the scheduler knows; a job that is left out is gone."""
        return {}

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """How jobs that are gone ended, in the scheduler's words; unknown ones are left out."""
        return {}

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs; jobs that are gone are ignored."""
        return

    def bad_nodes(self, jobs: Sequence[str]) -> list[str]:
        """Nodes that went down under two of ``jobs`` or more."""
        return []

    def stop_lead(self, profile: SiteProfile, resources: Resources) -> int | None:
        """Seconds between the signal to stop and the end of a job; None without such a signal."""
        return None


class Queue(Backend):
    """A back end whose jobs continue without the caller. A subclass gives ``machine``, ``submit``
    and ``alive``, and ``cancel`` where jobs can be cancelled."""

    here = False

    @abstractmethod
    def submit(self, submission: Submission, array: Array, after: Sequence[str]) -> list[str]:
        """Submit one array, and return the id of the job of each array task.

        The jobs start once all jobs of ``after`` have ended, done or failed, and call
        ``worker_command`` or ``hpcscale.worker.run.run_tasks_entry``.
        """

    def start(self, submission: Submission, display: Display, say: Say) -> bool:
        """Submit array by array. Each job is recorded at once, in case a later one is refused."""
        jobs = {name: job.id for name, job in submission.jobs.items()}
        for array in submission.arrays:
            after = sorted({jobs[name] for name in array.waits_for() if name in jobs})
            ids = self.submit(submission, array, after)
            for one, job in zip(array.array_tasks, ids, strict=True):
                for task in one.tasks:
                    write_job(submission.run_dir / task.id, Job(self.name, job), time.time())
                    jobs[task.id] = job
            listed = ", ".join(dict.fromkeys(self.array_of(job) for job in ids))
            size = f"{len(ids)} array tasks as job array" if len(ids) > 1 else "job"
            say(f"submitted {array.stage}: {size} {listed}")
        return True

    def array_of(self, job: str) -> str:
        """The array that a job is part of, as the scheduler names it."""
        return job


def worker_command(run_dir: Path, task_ids: Sequence[str]) -> list[str]:
    """The command that runs the tasks one after the other, as one rank."""
    python = [sys.executable, "-m", "hpcscale.cli.main"]
    return [*python, "task", str(run_dir.absolute()), *task_ids]
