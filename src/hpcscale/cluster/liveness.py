"""Questions to Slurm: does it answer, is a job alive, does a partition exist."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from hpcscale.cluster.environment import own_environment
from hpcscale.errors import ClusterError
from hpcscale.rundir.state import Liveness

_TIMEOUT = 30
_RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_ENDED = set(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY TIMEOUT REVOKED".split()
)


def slurm_available() -> bool:
    """Whether ``sbatch`` is installed and the controller answers."""
    return shutil.which("sbatch") is not None and ask("sinfo", "-h", "-o", "%R") is not None


def alive(jobs: Sequence[str]) -> dict[str, Liveness]:
    """``running``, ``queued``, ``gone`` or ``unknown`` of jobs (``123``) and elements (``123_4``).

    One call asks for all. Where Slurm does not answer, every job is unknown, never gone.
    """
    # Without --all a job in a hidden partition would be gone.
    lines = ask("squeue", "--me", "--all", "-h", "-r", "-o", "%i %T")
    if lines is None:
        return dict.fromkeys(jobs, "unknown")
    states: dict[str, Liveness] = {}
    for line in lines.splitlines():
        job, _, state = line.strip().partition(" ")
        if state and state not in _ENDED:
            states[job] = "running" if state in _RUNNING else "queued"
    return {job: states.get(job, "gone") for job in jobs}


def check_partition(name: str) -> None:
    """Raises ClusterError that names the known partitions where ``name`` is none of them."""
    answer = ask("sinfo", "--all", "-h", "-o", "%R")
    if answer is None:
        raise ClusterError("`sinfo` does not answer; is the Slurm controller up?")
    known = sorted(set(answer.split()))
    asked = name.split(",")
    unknown = [part for part in asked if part not in known]
    if unknown:
        raise ClusterError(
            f"there is no partition `{unknown[0]}`; this cluster has: {', '.join(known)}; change "
            "it in the site profile or with --set resources.default.partition=NAME"
        )


def cancel(jobs: Sequence[str]) -> None:
    """Ask Slurm to end jobs; those that are gone already do no harm."""
    if jobs:
        subprocess.run(
            ["scancel", *jobs], env=own_environment(os.environ), check=False, timeout=_TIMEOUT
        )


def ask(*command: str) -> str | None:
    """Standard output, or None where the command fails or does not answer."""
    try:
        done = subprocess.run(
            command,
            env=own_environment(os.environ),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
