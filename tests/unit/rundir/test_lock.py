"""One sweep at a time in a run directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcscale.errors import ClusterError, ConfigError
from hpcscale.rundir import lock
from hpcscale.rundir.lock import exclusive


def test_a_second_sweep_is_told_of_the_first(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with exclusive(run), pytest.raises(ClusterError) as caught, exclusive(run):
        pass
    assert f"another sweep (process {os.getpid()}) runs in {run}" in str(caught.value)
    assert f"hpcscale status {run} --follow" in str(caught.value)
    with exclusive(run):
        pass


def test_a_sweep_that_failed_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_root_that_cannot_be_made_is_named_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"root: .*file/a cannot be written .*--set root=DIR"),
        exclusive(tmp_path / "file" / "a"),
    ):
        pass


def test_a_file_system_without_locks_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: object, how: int) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").exists()
