"""Job arrays of Slurm, with ``afterany`` between them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from hpcscale.backends.base import Queue, Submission
from hpcscale.cluster import liveness
from hpcscale.cluster.environment import unused_options
from hpcscale.cluster.nodes import job_ends, node_failures
from hpcscale.cluster.restart import signal_lead
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.plan.array_tasks import Array
from hpcscale.plan.resources import Machine
from hpcscale.rundir.layout import LOGS
from hpcscale.rundir.state import Liveness

if TYPE_CHECKING:
    from hpcscale.cluster.executor import SlurmExecutor

_FAILURES = 2


class Slurm(Queue):
    """The cluster of the Slurm controller that answers here."""

    name = "slurm"

    def affinity(self) -> int:
        return 2 if liveness.slurm_available() else 0

    def problem(self) -> str | None:
        if liveness.slurm_available():
            return None
        return (
            "no Slurm answers here (`sinfo` fails); log in to a node of the cluster, or run on "
            "this machine with --executor local"
        )

    def machine(self, profile: SiteProfile) -> Machine:
        return Machine(profile.gpus_per_node, profile.cpus_per_node, False, profile.memory_per_node)

    def check(self, profile: SiteProfile, partitions: Collection[str]) -> None:
        for name in sorted(partitions):
            liveness.check_partition(name)

    def notes(self, profile: SiteProfile) -> list[str]:
        return unused_options(os.environ, profile)

    def submit(self, submission: Submission, array: Array, after: Sequence[str]) -> list[str]:
        # A dependency names a whole job array.
        parents = dict.fromkeys(self.array_of(job) for job in after)
        return _executor(submission).submit(
            stage=array.stage,
            name=submission.job_name(array),
            resources=array.resources,
            payloads=array.payloads,
            run_dir=submission.run_dir,
            dependencies=list(parents),
        )

    def preview(self, submission: Submission) -> list[str]:
        return [_script(submission, array) for array in submission.arrays]

    def alive(self, jobs: Sequence[str]) -> dict[str, Liveness]:
        return liveness.alive(jobs)

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        return job_ends(jobs)

    def cancel(self, jobs: Sequence[str]) -> None:
        liveness.cancel(jobs)

    def bad_nodes(self, jobs: Sequence[str]) -> list[str]:
        arrays = sorted({self.array_of(job) for job in jobs})
        return sorted(node for node, n in node_failures(arrays).items() if n >= _FAILURES)

    def stop_lead(self, profile: SiteProfile, resources: Resources) -> int | None:
        return signal_lead(profile, resources)

    def array_of(self, job: str) -> str:
        return job.partition("_")[0]


def _executor(submission: Submission) -> SlurmExecutor:
    from hpcscale.cluster.executor import SlurmExecutor

    return SlurmExecutor(submission.profile, submission.run_dir / LOGS, submission.avoid)


def _script(submission: Submission, array: Array) -> str:
    """The sbatch script of an array under a title, without the dependencies, not yet known."""
    script = _executor(submission).render(
        stage=array.stage,
        name=submission.job_name(array),
        resources=array.resources,
        payloads=array.payloads,
        run_dir=submission.run_dir,
        dependencies=[],
    )
    size = len(array.array_tasks)
    what = f"job array of {size} array tasks" if size > 1 else "one job"
    return f"--- {array.stage}: {what}\n{script.rstrip()}"
