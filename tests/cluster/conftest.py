"""One real Slurm for the whole session.

A cluster that runs already (DEVCLUSTER_BASE, or the default folder) is used and left running.
Otherwise one is started and stopped again; HPCSCALE_DEVCLUSTER=keep starts it in that folder and
leaves it up.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.devcluster import Cluster, free_port, leftovers, why_not


@pytest.fixture(scope="session")
def devcluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    default = Path(tempfile.gettempdir()) / "hpcscale-devcluster"
    standing = Cluster(
        Path(os.environ.get("DEVCLUSTER_BASE", default)),
        int(os.environ.get("DEVCLUSTER_PORT", "16817")),
        os.environ.get("DEVCLUSTER_MODE", "auto"),
    )
    if os.environ.get("HPCSCALE_DEVCLUSTER") == "keep":
        standing.tool("up")
        yield standing
        return
    if standing.tool("status", check=False).returncode == 0:
        yield standing
        return
    own = Cluster(Path(f"/tmp/hpcscale-test-{os.getpid()}"), free_port(), standing.wanted)
    own.tool("up")
    try:
        yield own
    finally:
        own.tool("down")
    assert leftovers(own) == []


@pytest.fixture(scope="session")
def slurm_cluster(devcluster: Cluster) -> Iterator[Path]:
    """The cluster's folder; Slurm's commands of this process and its children go there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", devcluster.environment["SLURM_CONF"])
        yield devcluster.base
