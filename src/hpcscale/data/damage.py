"""Files that are refused as a whole, because their missing part cannot be counted in records."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from hpcscale.errors import DataError

_REMEDY = "fetch it again, or leave it out of `path:`"
#: How a pointer file begins -> its tool, and the command that fetches the content.
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard", b"\xfd7zXZ\x00": "xz"}
#: A disk that lost power leaves zero bytes where it had not written yet.
_HOLE = bytes(16)


def damaged(path: Path, records: int, reason: object) -> DataError:
    """The error for a file that can be read only up to record (line, row) ``records``."""
    return DataError(
        f"{path} is damaged or cut off: {reason}; it can be read up to record {records}. "
        f"The documents after it are missing: {_REMEDY}"
    )


def refuse_pointer(path: Path) -> None:
    """Raises DataError where ``path`` is a pointer of Git LFS or git-annex without its content."""
    with open(path, "rb") as handle:
        head = handle.read(64)
    for begin, (tool, command) in _POINTERS.items():
        if head.startswith(begin):
            raise DataError(
                f"{path} is a {tool} pointer, and its content is not here; run `{command}` in "
                "its folder, or leave it out of `path:`"
            )


def refuse_foreign(path: Path, number: int, head: bytes) -> None:
    """Raises DataError where ``head``, the beginning of line ``number``, is not UTF-8 text."""
    for begin, name in _COMPRESSIONS.items():
        if head.startswith(begin):
            raise DataError(
                f"{path}:{number}: {name} data begins here, not text; decompress the file, or, "
                "if it is compressed once, give it a name that ends in .jsonl.gz or .jsonl.zst"
            )
    if head.startswith(_HOLE):
        refuse_hole(path, number - 1, head)
    if encoding := _wide_encoding(head, order=number == 1):
        raise DataError(
            f"{path}:{number}: this is {encoding}, not UTF-8; convert the file with "
            f"`iconv -f {encoding} -t UTF-8`"
        )


def refuse_hole(path: Path, records: int, content: bytes) -> None:
    """Raises DataError where a stretch of zero bytes is in place of unwritten text."""
    if _HOLE in content:
        raise damaged(path, records, "it has zero bytes in place of text")


def refuse_bad_line(path: Path, number: int, line: bytes) -> None:
    """Raises DataError where a line that is not JSON shows that more than this line is lost."""
    refuse_foreign(path, number, line)
    refuse_hole(path, number - 1, line)
    if not line.endswith(b"\n") and not _is_json(line.decode("utf-8", "replace")):
        raise damaged(path, number - 1, "its last line has no newline and is not JSON")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _wide_encoding(head: bytes, order: bool) -> str | None:
    """UTF-16 or UTF-32, by its mark or its zero bytes, as ``iconv`` names it; else None.

    ``order``: zero bytes tell the order of bytes too, which they do only at the beginning of a
    file.
    """
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    zeros = head[:4].count(0)
    if not zeros:
        return None
    width = "UTF-32" if zeros == 3 else "UTF-16"
    return width + ("" if not order else "BE" if head[0] == 0 else "LE")
