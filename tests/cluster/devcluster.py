"""The dev cluster as tests use it: a handle on slurm/devcluster, and a look for what it left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "slurm" / "devcluster"
NODES = ("node1", "node2", "node3")
COMMANDS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sacct")


def why_not() -> str | None:
    """A sentence where no cluster can be made here, else None."""
    if os.geteuid() != 0:
        return "a real Slurm needs root (slurm/devcluster)"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in COMMANDS if shutil.which(name, path=path) is None]
    if missing:
        return f"Slurm's packages are missing ({', '.join(missing)}): run slurm/devcluster/install"
    return None


@dataclass(frozen=True)
class Cluster:
    """One cluster; `environment` is what a process needs to talk to it."""

    base: Path
    port: int
    wanted: str = "auto"

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "DEVCLUSTER_BASE": str(self.base),
            "DEVCLUSTER_PORT": str(self.port),
            "DEVCLUSTER_MODE": self.wanted,
            "SLURM_CONF": str(self.base / "etc" / "slurm.conf"),
        }
        return {**os.environ, **own}

    @property
    def mode(self) -> str:
        """`netns` or `flat`."""
        return (self.base / "run" / "mode").read_text().strip()

    def tool(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of slurm/devcluster, such as `tool("node", "kill", "node2")`."""
        return self._call(str(FOLDER / words[0]), *words[1:], check=check)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of Slurm, such as `run("sinfo", "-h")`."""
        return self._call(*words, check=check)

    def _call(self, *words: str, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=180
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done


def free_port() -> int:
    """The first of a block of 14 ports that nobody listens on, below the ephemeral range."""
    for block in range(200):
        first = 17000 + (os.getpid() + block) % 1000 * 14
        if all(_closed(first + offset) for offset in range(14)):
            return first
    raise AssertionError("no free block of ports between 17000 and 31000")


def _closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def leftovers(cluster: Cluster) -> list[str]:
    """Folder, processes, network and lines of /etc/hosts that a stopped cluster still has."""
    mark = str(cluster.base).encode()
    found = [str(cluster.base)] if cluster.base.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if mark in command or (mark in environment and b"SLURMD_NODENAME=" in environment):
            found.append(f"process {process.name}: {command[:200]!r}")
    links = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    if f"alias {cluster.base}" in links:
        found.append("the bridge")
    if f"# devcluster {cluster.base}" in Path("/etc/hosts").read_text():
        found.append("its line in /etc/hosts")
    return found
