"""Documents from local files: JSON lines (plain, gzip, zstandard), parquet and text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from hpcscale.data.archives import archive_errors, open_gzip, open_plain, open_zstd
from hpcscale.data.damage import (
    damaged,
    refuse_bad_line,
    refuse_foreign,
    refuse_hole,
    refuse_pointer,
)
from hpcscale.data.documents import UNLABELLED, Document
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

#: The byte order mark that some editors begin a file with; it is not part of the text.
MARK = "\ufeff"


def _read_lines(
    path: Path, text: str, domain: str, report: ReadReport, open_file: Callable[[Path], IO[bytes]]
) -> Iterator[Document]:
    """One JSON object per line; blank lines are skipped. Raises DataError where the file is cut."""
    number = 0
    try:
        with open_file(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = _parse(line)
                except (ValueError, RecursionError) as error:
                    _count_bad_line(path, number, line, error, report)
                else:
                    yield from _documents(record, text, domain, f"{path}:{number}", report)
    except archive_errors() as error:
        raise damaged(path, number, error) from None


def _parse(line: bytes) -> Any:
    """The JSON value of a line. Raises ValueError or RecursionError where it is not JSON."""
    try:
        return json.loads(line.decode("utf-8"))
    except ValueError:
        # A mark before the line, or half surrogates in a field that nobody asks for.
        unmarked = line.removeprefix(codecs.BOM_UTF8)
        return json.loads(unmarked.decode("utf-8", "surrogatepass"))


def _count_bad_line(
    path: Path, number: int, line: bytes, error: Exception, report: ReadReport
) -> None:
    """Count a broken record. Raises DataError where the line shows that the file is damaged."""
    line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return
    refuse_bad_line(path, number, line)
    decoding = isinstance(error, UnicodeDecodeError)
    report.add_broken(f"{path}:{number}", "not UTF-8" if decoding else f"not JSON: {error}")


def _documents(
    record: Any, text: str, domain: str, place: str, report: ReadReport
) -> Iterator[Document]:
    """The document of one record, or none where the record is broken or empty."""
    if not isinstance(record, dict):
        if isinstance(record, list) and any(isinstance(item, dict) for item in record):
            raise DataError(
                f"{place}: one line holds an array of {len(record)} records; write a line for "
                "each, as `jq -c '.[]'` does"
            )
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
    return _read_lines(path, text, domain, report, open_plain)


def _read_gzip(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    return _read_lines(path, text, domain, report, open_gzip)


def _read_zstd(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    return _read_lines(path, text, domain, report, open_zstd)


def _read_parquet(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    """One document a row. Raises DataError where the file or its text column is unreadable."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if text not in names:
            raise DataError(
                f"{path} has no column {text!r}; set `text:` to one of {', '.join(names)}"
            )
        columns = [name for name in (text, domain) if name in names]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield from _documents(record, text, domain, f"{path}:{number}", report)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, number, f"it cannot be read as parquet ({error})") from None


def _read_text(path: Path, text: str, domain: str, report: ReadReport) -> Iterator[Document]:
    """The whole file is one document, without the mark that some editors begin it with."""
    content = path.read_bytes()
    refuse_foreign(path, 1, content)
    refuse_hole(path, 0, content)
    try:
        value = content.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise damaged(path, 0, "it ends within a character of UTF-8") from None
        report.add_broken(f"{path}:1", f"not UTF-8 at byte {error.start}")
        return
    yield from _documents({text: value}, text, domain, f"{path}:1", report)


def starts_with_mark(path: Path) -> bool:
    """Whether a file begins with a byte order mark. Raises DataError."""
    try:
        with open(path, "rb") as handle:
            return handle.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


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
    """The documents of one file in its order; ``report`` counts broken and empty ones.

    Raises DataError where the file is damaged, cut off or of another encoding.
    """
    read = reader_of(path)
    assert read is not None, path
    try:
        refuse_pointer(path)
        yield from read(path, text, domain, report)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
