"""Commands in containers."""

from __future__ import annotations

from hpcscale.cluster.container import container_wrap
from sites import container


def test_binds_with_one_path_are_mounted_in_place() -> None:
    flags, command = container_wrap(container("pyxis"), ["python"])
    assert "--container-mounts=/scratch:/scratch,/data:/mnt" in flags
    assert command == ["python"]
    assert "--volume=/scratch:/scratch" in container_wrap(container("podman"), ["python"])[1]
