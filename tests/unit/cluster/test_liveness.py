"""What Slurm's answers mean, and that nothing in the environment changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.cluster.liveness import alive, ask, cancel, check_partition, slurm_available
from hpcscale.errors import ClusterError
from sites import Fake, fake

__all__ = ["fake"]  # a fixture


def test_jobs_are_running_queued_gone_or_unknown(fake: Fake) -> None:
    fake(
        "squeue", "printf '5_0 RUNNING\\n5_1 PENDING\\n6 COMPLETING\\n7 REQUEUE_HOLD\\n8 FAILED\\n'"
    )
    assert alive(["5_0", "5_1", "5_2", "6", "7", "8"]) == {
        "5_0": "running",
        "5_1": "queued",
        "5_2": "gone",
        "6": "running",
        "7": "queued",
        "8": "gone",
    }
    fake("squeue", 'case "$*" in *--all*) echo 5_0 RUNNING;; esac')
    assert alive(["5_0"]) == {"5_0": "running"}, "in a hidden partition"
    fake("squeue", "exit 1")
    assert alive(["5_0"]) == {"5_0": "unknown"}


def test_partitions_are_those_of_the_cluster(fake: Fake) -> None:
    fake("sinfo", "printf 'main\\nlow\\n'")
    fake("sbatch", "true")
    check_partition("main")
    check_partition("main,low")
    with pytest.raises(ClusterError, match="no partition `gpu`; this cluster has: low, main"):
        check_partition("gpu")
    assert slurm_available()
    fake("sinfo", "exit 1")
    assert not slurm_available()


def test_slurm_is_asked_without_what_would_hide_living_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("squeue", "scancel"):
        (tmp_path / name).write_text(f"#!/bin/sh\nenv > {tmp_path}/{name}.env\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SCANCEL_PARTITION", "p")
    ask("squeue")
    cancel(["1"])
    for name in ("squeue", "scancel"):
        seen = (tmp_path / f"{name}.env").read_text()
        assert "PATH=" in seen
        assert "SQUEUE_STATES" not in seen
        assert "SCANCEL_PARTITION" not in seen
