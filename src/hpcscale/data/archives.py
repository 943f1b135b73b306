"""Plain, gzip and zstandard files as streams of bytes; a file that is not whole raises an error."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20


def open_plain(path: Path) -> IO[bytes]:
    return open(path, "rb")


def open_gzip(path: Path) -> IO[bytes]:
    _refuse_empty(path)
    return io.BufferedReader(_GzipReader(path), _CHUNK)


def open_zstd(path: Path) -> IO[bytes]:
    _refuse_empty(path)
    return io.BufferedReader(_ZstdReader(path), _CHUNK)


def archive_errors() -> tuple[type[Exception], ...]:
    """The exceptions of reading a file that is cut off, damaged or not an archive."""
    from zstandard import ZstdError

    return (EOFError, zlib.error, gzip.BadGzipFile, ZstdError)


def _refuse_empty(path: Path) -> None:
    # An empty archive has a header; gzip itself reads a file without one as no data.
    if path.stat().st_size == 0:
        raise EOFError("the file is empty")


class _GzipReader(io.RawIOBase):
    """The decompressed bytes of all members, as far as there are any before an error."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path, "rb")  # noqa: SIM115 -- close() ends it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # gzip's own readinto fills the buffer, and what it had when it met an error is lost.
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _ZstdReader(io.RawIOBase):
    """The decompressed bytes of all frames; EOFError where the last one is cut off."""

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
