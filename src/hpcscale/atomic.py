"""Files that are either whole or absent, and done markers that prove it.

A task writes to a temporary name, fsyncs, renames, and writes its done marker last, with the
checksums of its outputs. A reader therefore never needs to ask whether a writer had finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpcscale.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa

DONE = "done.json"
_CHUNK = 1 << 22


def temporary_name(path: Path) -> Path:
    """A sibling of ``path`` that no other process on any node uses."""
    return path.with_name(f".{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")


def fsync_directory(path: Path) -> None:
    """Make renames in ``path`` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_writer(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path`` when the block ends without an error.

    An existing ``path`` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                settle(file)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def settle(path: Path) -> None:
    """Flush a file that a library wrote, and make it as readable as its folder.

    Some libraries make files for their owner only.
    """
    with open(path, "rb") as handle:
        os.fchmod(handle.fileno(), path.parent.stat().st_mode & 0o666)
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    with atomic_writer(path, "w") as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_parquet(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with atomic_writer(path) as handle:
        pq.write_table(table, handle)


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises TaskError where the file is absent or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(f"{path} is missing; run the same `hpcscale sweep` again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_done(directory: Path, key: str, outputs: Iterable[str], **facts: Any) -> None:
    """Mark ``directory`` as done under ``key``, with size and SHA-256 of each output file."""
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": sha256_file(directory / name)}
        for name in sorted(outputs)
    }
    write_json(directory / DONE, {"key": key, "outputs": files, **facts})


def read_done(directory: Path, key: str | None = None) -> dict[str, Any] | None:
    """The done marker; None where it is absent, of another key, or an output's size differs.

    Sizes are compared at every plan; checksums only by ``verify_done``, since they cost a read.
    """
    try:
        marker = json.loads((directory / DONE).read_text(encoding="utf-8"))
        if key is not None and marker["key"] != key:
            return None
        for name, facts in marker["outputs"].items():
            if (directory / name).stat().st_size != facts["bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(marker)


def verify_done(directory: Path, key: str | None = None) -> dict[str, Any]:
    """``read_done`` with every checksum compared. Raises TaskError naming the file that differs."""
    marker = read_done(directory, key)
    if marker is None:
        raise TaskError(f"{directory} is not complete; run the same `hpcscale sweep` again")
    for name, facts in marker["outputs"].items():
        if sha256_file(directory / name) != facts["sha256"]:
            raise TaskError(
                f"{directory / name} differs from its checksum; delete {directory} and run "
                "the same `hpcscale sweep` again"
            )
    return marker
