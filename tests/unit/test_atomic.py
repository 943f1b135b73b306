from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from hpcscale.atomic import (
    atomic_directory,
    atomic_writer,
    read_done,
    sha256_file,
    verify_done,
    write_done,
    write_json,
    write_parquet,
)
from hpcscale.errors import TaskError
from hpcscale.selection.budget import Selection, write_selection


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "value"
    target.write_text("old")

    def fail() -> None:
        with atomic_writer(target, "w") as handle:
            handle.write("new")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value"]


def test_a_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_directory(tmp_path / "store") as folder:
            (folder / "part").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


_SELECTION = Selection(np.array([0]), np.array([5]), np.array([0], np.int16))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_parquet(path, pa.table({"score": [1.0]})),
        lambda path: write_selection(path, _SELECTION, np.array([7], np.uint64)),
    ],
    ids=["scores", "selection"],
)
def test_a_table_is_on_disk_before_it_has_its_name(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        calls.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        calls.append(target)
        replace(source, target)

    path = tmp_path / "table.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flushed)
        patched.setattr(os, "replace", renamed)
        write(path)
    assert calls[:2] == [(path.stat().st_ino, path.stat().st_size), path]


def test_a_kill_before_the_rename_leaves_the_old_table(tmp_path: Path) -> None:
    target = tmp_path / "scores.parquet"
    write_parquet(target, pa.table({"score": [1.0]}))
    code = (
        "import os, sys, pathlib, pyarrow, hpcscale.atomic as atomic\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), 9)\n"
        "atomic.write_parquet(pathlib.Path(sys.argv[1]), pyarrow.table({'score': [2.0]}))"
    )
    killed = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert pq.read_table(target)["score"].to_pylist() == [1.0]


def test_others_may_read_weights_as_they_may_the_folder(tmp_path: Path) -> None:
    """safetensors makes its files for their owner alone."""
    tmp_path.chmod(0o755)
    with atomic_directory(tmp_path / "model") as folder:
        folder.chmod(0o750)
        save_file({"x": np.zeros(3)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}


def test_checksums_are_those_of_hashlib(tmp_path: Path) -> None:
    data = os.urandom(5_000_001)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_done_marker_belongs_to_one_key_and_to_whole_outputs(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("result")
    assert read_done(tmp_path) is None
    write_done(tmp_path, "key", ["out"])
    assert read_done(tmp_path, "key") is not None
    assert read_done(tmp_path, "other") is None
    (tmp_path / "out").write_text("resul")
    assert read_done(tmp_path, "key") is None


def test_a_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"result")
    write_done(tmp_path, "key", ["out"])
    verify_done(tmp_path, "key")
    (tmp_path / "out").write_bytes(b"resulu")
    assert read_done(tmp_path, "key") is not None, "sizes alone cannot tell"
    with pytest.raises(TaskError, match="out differs from its checksum"):
        verify_done(tmp_path, "key")


@pytest.mark.parametrize("broken", ["", "{", '{"key": 1}', "[]", '{"key": "key", "outputs": 3}'])
def test_a_broken_marker_is_no_marker(tmp_path: Path, broken: str) -> None:
    (tmp_path / "done.json").write_text(broken)
    assert read_done(tmp_path, "key") is None


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
