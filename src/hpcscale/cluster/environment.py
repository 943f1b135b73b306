"""The environment variables that Slurm's commands, their jobs and local workers may see.

sbatch puts ``SBATCH_*`` above the script's own lines and passes all variables on into the job;
squeue and its like hide jobs where ``SQUEUE_*`` says so. What an outer job, a launcher or a shell
has left there must not decide how a job is submitted, or whether one is found alive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hpcscale.config.profile import SiteProfile

#: How the cluster is reached: the configuration, where it is fetched, and the right to ask.
#: SLURM_CLUSTERS is not among them. It moves jobs to another cluster, where a later call without
#: it finds none of them alive and submits them a second time. SLURM_CONF reaches that cluster too.
_REACH = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}
_SLURM = tuple(
    (
        "SBATCH_ SLURM_ SLURMD_ SALLOC_ SRUN_ SQUEUE_ SACCT_ SACCTMGR_ SINFO_ SCANCEL_ SCONTROL_ "
        "SUBMITIT_"
    ).split()
)
#: What srun, mpirun and torchrun tell a rank about itself.
LAUNCHER_PREFIXES = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "TORCHELASTIC_")
LAUNCHER_NAMES = tuple(
    (
        "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK "
        "ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR MASTER_PORT"
    ).split()
)
#: Slurm numbers the devices of each job, and sets these only where the job has some.
_DEVICES = {
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
}
_FOLDERS = ("TMPDIR", "TMP", "TEMP")
_JOB_IDS = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_ARRAY_JOB_ID")

#: Options of sbatch that the sweep decides itself, by the name behind SBATCH_.
_OURS = set("ARRAY_INX ERROR INPUT JOB_NAME NO_REQUEUE OPEN_MODE OUTPUT REQUEUE WAIT DEBUG".split())
#: Keys of the profile.
_KEYS = {
    "PARTITION": "partition",
    "ACCOUNT": "account",
    "QOS": "qos",
    "CONSTRAINT": "constraint",
    "GPUS_PER_NODE": "gpus_per_node",
}
#: Keys of the sweep file.
_RESOURCES = {"TIMELIMIT": "resources.default.time", "MEM_PER_NODE": "resources.default.memory"}
#: Where sbatch's long option is not the name in lower case.
_LONG = {"REQ_SWITCH": "switches", "WAIT4SWITCH": "switches"}
#: Options of srun that people export; others are a job's own.
_SRUN = set(
    (
        "SLURM_CPU_BIND SLURM_MEM_BIND SLURM_GPU_BIND SLURM_MPI_TYPE SLURM_HINT "
        "SLURM_DISTRIBUTION SLURM_NETWORK SLURM_EXPORT_ENV SLURM_OVERLAP SLURM_CPU_FREQ_REQ "
        "SLURM_EXACT SLURM_MEM_BIND_SORT"
    ).split()
)
_OTHER_CLUSTER = "set SLURM_CONF to the slurm.conf of the cluster that you mean"


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without what belongs to an outer job, a launcher or options of Slurm."""
    gone = launcher_leftovers(environ) | _DEVICES | _folders_of_the_job(environ)
    return {
        name: value
        for name, value in environ.items()
        if name in _REACH or not (name in gone or name.startswith(_SLURM))
    }


def launcher_leftovers(environ: Mapping[str, str]) -> set[str]:
    """Variables that make a process believe that it is a rank of another launcher."""
    return {n for n in environ if n in LAUNCHER_NAMES or n.startswith(LAUNCHER_PREFIXES)}


def _folders_of_the_job(environ: Mapping[str, str]) -> set[str]:
    """A folder named after the job is removed when that job ends."""
    ids = {re.escape(environ[name]) for name in _JOB_IDS if environ.get(name)}
    if not ids:
        return set()
    named = re.compile(rf"(?<![0-9])(?:{'|'.join(ids)})(?![0-9])")
    return {name for name in _FOLDERS if named.search(environ.get(name, ""))}


@contextmanager
def only_own_environment() -> Iterator[None]:
    """Remove other variables from ``os.environ`` meanwhile: submitit passes all to sbatch."""
    kept = own_environment(os.environ)
    taken = {name: value for name, value in os.environ.items() if name not in kept}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def unused_options(environ: Mapping[str, str], profile: SiteProfile) -> list[str]:
    """One line for each option of Slurm in ``environ`` that has no effect here.

    Options that the profile says too, and those that Slurm itself sets in a job, are left out.
    """
    lines = []
    for name in sorted(environ):
        option = name.removeprefix("SBATCH_")
        if option != name and not option.startswith(("CPU_BIND", "MEM_BIND")):
            way = _way_out(option, environ[name], profile)
            if way:
                lines.append(f"{name}={environ[name]} in your environment is not used; {way}")
    if "SLURM_CLUSTERS" in environ:
        lines.append(
            f"SLURM_CLUSTERS={environ['SLURM_CLUSTERS']} in your environment is not used; "
            f"{_OTHER_CLUSTER}"
        )
    of_srun = sorted(_SRUN & environ.keys()) if "SLURM_JOB_ID" not in environ else []
    if of_srun:
        verb = "is" if len(of_srun) == 1 else "are"
        lines.append(
            f"{', '.join(of_srun)} in your environment {verb} not used; write options of srun "
            "under srun_args in the site profile"
        )
    return lines


def _way_out(option: str, value: str, profile: SiteProfile) -> str | None:
    """What the user should write; None where the profile says the same."""
    if option in _OURS:
        return "the sweep sets this itself"
    if option == "CLUSTERS":
        return _OTHER_CLUSTER
    if option in _RESOURCES:
        return f"write {_RESOURCES[option]}: {value} in the sweep file"
    if option == "SIGNAL":
        return "write the seconds as signal_seconds in the site profile"
    if option in _KEYS:
        key = _KEYS[option]
        same = str(getattr(profile, key)) == value
        return None if same else f"write {key}: {value} in the site profile"
    long = _LONG.get(option, option.lower().replace("_", "-"))
    if long in profile.extra_sbatch:
        return None
    return f"write extra_sbatch: {{{long}: {value or 'true'}}} in the site profile"
