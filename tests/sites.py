"""Site profiles with each kind of container, and commands of Slurm that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcscale.config.profile import ContainerConfig, SiteProfile

KINDS = ["none", "apptainer", "pyxis", "podman", "charliecloud"]
#: Name of a command, and the shell lines that it runs.
Fake = Callable[[str, str], None]


def container(kind: str) -> ContainerConfig:
    if kind == "none":
        return ContainerConfig()
    return ContainerConfig(
        kind=kind,
        image="/images/hpcscale.img",
        binds=("/scratch", "/data:/mnt"),
        gpu=True,
        workdir="/scratch",
        extra_args=("--extra",),
    )  # type: ignore[arg-type]


def profile(kind: str) -> SiteProfile:
    return SiteProfile(
        name="test",
        partition="gpu",
        account="ours",
        qos="high",
        constraint="a100",
        gpus_per_node=4,
        signal_seconds=90,
        modules=("cuda/12",),
        environment={"X": "a b"},
        setup=("ulimit -n 4096",),
        srun_args=("--mpi=none",),
        extra_sbatch={"exclusive": True},
        container=container(kind),
    )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Commands of Slurm that print what a test says."""

    def make(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return make
