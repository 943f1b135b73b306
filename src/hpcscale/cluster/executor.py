"""Job arrays through submitit, which carries a run directory and task names and nothing else.

The only importer of submitit.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from hpcscale.cluster.container import container_wrap
from hpcscale.cluster.entry import run_element
from hpcscale.cluster.environment import only_own_environment
from hpcscale.cluster.restart import requeue_lines, signal_lead, time_minutes
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import ClusterError, ConfigError


class SlurmExecutor:
    """Submits arrays for one site; logs and submitit's own files go to ``folder``.

    exclude: nodes that no job may get, besides those that the profile excludes. Raises ConfigError
    where the profile names another cluster than the one that squeue asks.
    """

    def __init__(self, profile: SiteProfile, folder: Path, exclude: Sequence[str] = ()) -> None:
        if "clusters" in profile.extra_sbatch:
            raise ConfigError(
                f"the site profile `{profile.name}` has clusters under extra_sbatch, but squeue "
                "asks the default cluster, and would report these jobs as gone; remove it, set "
                "SLURM_CONF to the slurm.conf of the cluster that you mean"
            )
        self.profile, self.folder, self.exclude = profile, folder.absolute(), exclude

    def submit(
        self,
        *,
        stage: str,
        name: str,
        resources: Resources,
        payloads: Sequence[list[str]],
        run_dir: Path,
        dependencies: Sequence[str],
    ) -> list[str]:
        """Submit one array, or several where MaxArraySize is smaller; one job id per payload.

        Each payload is a list of task names that run one after the other in the same ranks. The
        array starts when all of ``dependencies`` have ended, however they ended. Raises
        ClusterError with Slurm's own words where it refuses.
        """
        ids: list[str] = []
        for chunk in _chunks(payloads, self.profile.max_array_size):
            folder = self.folder / stage
            executor = submitit.SlurmExecutor(folder, python=shlex.join(self._python()))
            executor.update_parameters(**self._parameters(name, resources, dependencies, folder))
            try:
                with only_own_environment(), executor.batch():
                    jobs = [
                        executor.submit(
                            run_element, str(run_dir.absolute()), ids_, self.profile.max_restarts
                        )
                        for ids_ in chunk
                    ]
            except Exception as error:
                raise ClusterError(
                    f"Slurm refuses the {stage} array: {_last_line(error)}; change the site "
                    f"profile `{self.profile.name}` or resources.{stage}, and run the same "
                    "command again"
                ) from error
            ids += [str(job.job_id) for job in jobs]
        return ids

    def render(
        self,
        *,
        stage: str,
        name: str,
        resources: Resources,
        payloads: Sequence[list[str]],
        run_dir: Path,
        dependencies: Sequence[str],
    ) -> str:
        """The script that ``submit`` gives to sbatch for the first array; Slurm is not called."""
        folder = self.folder / stage
        count = min(len(payloads), self.profile.max_array_size)
        script: str = _make_sbatch_string(
            command=f"{shlex.join(self._python())} -u -m submitit.core._submit {folder}",
            folder=folder,
            map_count=count if count > 1 else None,
            **self._parameters(name, resources, dependencies, folder),
        )
        return script

    def _python(self) -> list[str]:
        container = self.profile.container
        python = sys.executable if container.kind == "none" else container.python
        return container_wrap(container, [python])[1]

    def _parameters(
        self, name: str, resources: Resources, dependencies: Sequence[str], folder: Path
    ) -> dict[str, Any]:
        profile = self.profile
        values: dict[str, Any] = {
            "job_name": name,
            "partition": resources.partition or profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "time": time_minutes(resources),
            "nodes": resources.nodes,
            "ntasks_per_node": resources.gpus or resources.ranks,
            "cpus_per_task": resources.cpus,
            "gpus_per_node": resources.gpus or None,
            "mem": f"{resources.memory // 2**20}M" if resources.memory else None,
            "signal_delay_s": signal_lead(profile, resources),
            "array_parallelism": resources.array_parallelism or profile.max_array_size,
            "wckey": None,
            "stderr_to_stdout": True,
            "dependency": "afterany:" + ":".join(dependencies) if dependencies else None,
            "setup": setup_lines(profile, resources),
            "teardown": requeue_lines(folder, profile.max_restarts),
            "srun_args": self._srun_args(resources),
            "additional_parameters": {"requeue": True, **profile.extra_sbatch, **self._excluded()},
        }
        return {key: value for key, value in values.items() if value is not None or key == "wckey"}

    def _excluded(self) -> dict[str, str]:
        own = self.profile.extra_sbatch.get("exclude")
        nodes = [*([str(own)] if own else []), *self.exclude]
        return {"exclude": ",".join(nodes)} if nodes else {}

    def _srun_args(self, resources: Resources) -> list[str]:
        flags, _ = container_wrap(self.profile.container, [])
        # Since Slurm 22.05 srun does not take the cores a task from sbatch. It does take
        # --export=NONE, which would keep the profile's own variables from the ranks.
        return [
            "--kill-on-bad-exit=1",
            "--export=ALL",
            f"--cpus-per-task={resources.cpus}",
            *self.profile.srun_args,
            *flags,
        ]


def setup_lines(profile: SiteProfile, resources: Resources | None = None) -> list[str]:
    """Shell lines that go before srun."""
    lines = [f"module load {shlex.quote(module)}" for module in profile.modules]
    lines += [f"export {key}={shlex.quote(text)}" for key, text in profile.environment.items()]
    if resources is not None:
        lines.append(f"export OMP_NUM_THREADS={resources.cpus}")
    return [*lines, *profile.setup]


def _chunks(payloads: Sequence[list[str]], size: int) -> list[Sequence[list[str]]]:
    return [payloads[start : start + size] for start in range(0, len(payloads), size)]


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
