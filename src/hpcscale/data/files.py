"""Documents from local files: JSON lines (plain, gzip, zstandard), parquet and text."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from hpcscale.data.documents import UNLABELLED, Document
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

_CHUNK = 1 << 20


class _ZstdReader(io.RawIOBase):
    """The decompressed bytes of a zstandard file; EOFError where its last frame is cut off."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._frame: Any = None
        self._file = open(path, "rb")  # noqa: SIM115 -- close() ends it
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = getattr(self._frame, "unused_data", b"") or self._file.read(_CHUNK)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last zstandard frame is cut off")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._new()
            self._ready = memoryview(self._frame.decompress(data))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zstd(path: Path) -> IO[bytes]:
    return io.BufferedReader(_ZstdReader(path), _CHUNK)


def _open_plain(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _open_gzip(path: Path) -> IO[bytes]:
    return io.BufferedReader(gzip.open(path, "rb"), _CHUNK)  # type: ignore[type-var]


def _read_lines(
    path: Path, text: str, domain: str, report: ReadReport, open_file: Callable[[Path], IO[bytes]]
) -> Iterator[Document]:
    """One JSON object a line; blank lines are nothing."""
    number = 0
    try:
        with open_file(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    record = json.loads(line)
                except UnicodeDecodeError:
                    report.add_broken(f"{path}:{number}", "not UTF-8")
                except (ValueError, RecursionError) as error:
                    report.add_broken(f"{path}:{number}", f"not JSON: {error}")
                else:
                    yield from _documents(record, text, domain, f"{path}:{number}", report)
    except (EOFError, zlib.error, gzip.BadGzipFile, _zstd_error()) as error:
        report.add_broken(f"{path}:{number + 1}", f"the file is damaged or cut off: {error}")


def _zstd_error() -> type[Exception]:
    try:
        from zstandard import ZstdError
    except ImportError:
        return EOFError
    return ZstdError  # type: ignore[no-any-return]


def _documents(
    record: Any, text: str, domain: str, place: str, report: ReadReport
) -> Iterator[Document]:
    """The document of one record, or none where the record is broken or empty."""
    if not isinstance(record, dict):
        report.add_broken(place, f"a JSON {type(record).__name__}, not an object")
        return
    value = record.get(text)
    if not isinstance(value, str):
        fields = ", ".join(sorted(map(str, record))[:8]) or "none"
        reason = (
            f"field {text!r} is {type(value).__name__}, not text"
            if text in record
            else f"no field {text!r}; its fields: {fields}"
        )
        report.add_broken(place, reason)
        return
    if not value.isascii() and not _is_unicode(value):
        report.add_broken(place, "the text holds half a surrogate pair")
        return
    label = record.get(domain)
    if label is not None and not isinstance(label, (str, int)):
        report.add_broken(place, f"field {domain!r} is {type(label).__name__}, not a name")
        return
    report.documents += 1
    if not value.strip():
        report.empty += 1
        return
    yield Document(value, UNLABELLED if label is None else str(label), place)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_jsonl(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    return _read_lines(path, text, domain, report, _open_plain)


def _read_gzip(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    return _read_lines(path, text, domain, report, _open_gzip)


def _read_zstd(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    return _read_lines(path, text, domain, report, _open_zstd)


def _read_parquet(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    """One document a row. Raises DataError where the file or its text column is unreadable."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if text not in names:
            raise DataError(
                f"{path} has no column {text!r}; set `text:` to one of {', '.join(names)}"
            )
        columns = [name for name in (text, domain) if name in names]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield from _documents(record, text, domain, f"{path}:{number}", report)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}; fetch it again") from None


def _read_text(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    """The whole file is one document."""
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        report.add_broken(f"{path}:1", f"not UTF-8 at byte {error.start}")
        return
    yield from _documents({text: content}, text, domain, f"{path}:1", report)


_Reader = Callable[[Path, str, str, ReadReport], Iterator[Document]]
#: How a file name ends -> how it is read. The first that fits decides.
READERS: dict[str, _Reader] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_gzip,
    ".json.gz": _read_gzip,
    ".jsonl.zst": _read_zstd,
    ".json.zst": _read_zstd,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


def reader_of(path: Path) -> _Reader | None:
    return next((read for end, read in READERS.items() if path.name.endswith(end)), None)


def read_file(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    """The documents of one file in its order; what is broken or empty goes into ``report``."""
    read = reader_of(path)
    assert read is not None, path
    try:
        yield from read(path, text, domain, report)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def find_files(patterns: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(relative name, path) of each file that the patterns name, sorted and each once.

    A pattern is a file, a directory (searched recursively) or a glob; ``~`` and ``$VARIABLES``
    are expanded. Raises DataError where a pattern names nothing that can be read.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        expanded = os.path.expandvars(os.path.expanduser(pattern))  # noqa: PTH111
        for name, path in _matches(pattern, expanded):
            found.setdefault(path, name)
    return sorted((name, path) for path, name in found.items())


def _matches(pattern: str, expanded: str) -> list[tuple[str, Path]]:
    root = Path(expanded)
    known = ", ".join(READERS)
    if root.is_dir():
        files = [path for path in root.rglob("*") if path.is_file() and reader_of(path)]
        inside = [(path.relative_to(root).as_posix(), path) for path in files]
        inside = [(name, path) for name, path in inside if not _is_hidden(name)]
        if not inside:
            raise DataError(f"directory {pattern} holds no file that ends in {known}")
        return inside
    if root.is_file():
        if reader_of(root) is None:
            raise DataError(f"{pattern} is of no known kind; a file must end in {known}")
        return [(root.name, root)]
    paths = [Path(match) for match in glob.glob(expanded, recursive=True)]  # noqa: PTH207
    named = [(path.name, path) for path in paths if path.is_file() and reader_of(path)]
    if not named:
        what = "no file fits" if glob.has_magic(expanded) else "there is no file or directory"
        raise DataError(f"{what} {pattern!r} (seen from {Path.cwd()}); correct `path:`")
    return named


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
