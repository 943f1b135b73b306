"""One record of a corpus, and the stable id that its text gives it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

#: The domain of a document whose source names none.
UNLABELLED = "unlabelled"


@dataclass(frozen=True, slots=True)
class Document:
    """A text, the domain it is counted under, and its place (``file:line``)."""

    text: str
    domain: str
    place: str


def text_id(text: str) -> int:
    """The first 8 bytes of SHA-256 of the UTF-8 text, as a big-endian unsigned integer.

    Equal texts have equal ids; among n documents two different texts share one with
    probability about n^2 / 2^65. Raises UnicodeEncodeError for lone surrogates.
    """
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def format_id(identity: int) -> str:
    """The id as 16 hexadecimal digits, the form that files and logs show."""
    return f"{int(identity):016x}"


def unit_hash(identity: int) -> float:
    """``identity`` / 2^64, in [0, 1): the number that decides which split owns a document."""
    # 53 bits fit a double exactly; the plain quotient would round the largest ids up to 1.
    return (identity >> 11) / 2**53
