"""Packing: documents one after the other, cut into rows of equal length, without padding.

The *stream* of a list of documents is [end-of-text] + all their tokens. Target j is stream[j + 1]
and its input is stream[j], so each of the N tokens is a target exactly once. Row r of length T
covers the targets r * T to r * T + T - 1. Only the last row may be short: it is filled with
end-of-text inputs and targets of -100, which the loss ignores.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.types import Ints

Packing = Literal["concat", "isolate"]
#: The target of a position that is not a token; torch's cross entropy ignores it by default.
IGNORED = -100
#: The segment of a position that is not a token.
NO_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a packed stream; every array is int64 of shape [B, T], ``tokens`` of shape [B].

    ``segments`` is the ordinal, in the stream's list of documents, of the document of each
    *target*: the end-of-text input that predicts the first token of a document belongs to that
    document. ``positions`` restart at each segment of a row under ``isolate``. ``tokens`` counts
    the real targets of each row. ``first_row`` is the number of the first row in the stream.
    """

    inputs: Ints
    targets: Ints
    segments: Ints
    positions: Ints
    tokens: Ints
    first_row: int

    @property
    def n_tokens(self) -> int:
        """Real targets of the batch."""
        return int(self.tokens.sum())


class PackedStream:
    """Random access to the rows of a list of documents."""

    def __init__(
        self,
        store: TokenStore,
        doc_positions: npt.NDArray[np.int64],
        n_tokens: int | None = None,
        sequence_length: int = 1024,
        packing: Packing = "concat",
    ) -> None:
        """``doc_positions`` are positions in ``store`` in training order and may repeat.

        The stream ends after ``n_tokens`` targets, in the middle of a document if needed; None
        takes all. Raises DataError where the documents hold fewer tokens.
        """
        if sequence_length < 1:
            raise DataError(f"sequence length {sequence_length} is not a length; write 8 or more")
        if packing not in ("concat", "isolate"):
            raise DataError(f"packing {packing!r} is unknown; write concat or isolate")
        documents = np.asarray(doc_positions, dtype=np.int64)
        begins = store.offsets[documents]
        starts = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(store.offsets[documents + 1] - begins, out=starts[1:])
        wanted = int(starts[-1]) if n_tokens is None else int(n_tokens)
        if not 0 <= wanted <= starts[-1]:
            raise DataError(
                f"{wanted} tokens were asked for, but the {len(documents)} documents hold "
                f"{starts[-1]}; lower the budget or choose more documents"
            )
        self.n_tokens = wanted
        self.sequence_length = sequence_length
        self.packing: Packing = packing
        self.n_rows = -(-wanted // sequence_length)
        self.store = store
        self._documents, self._ids = documents, store.ids
        self._tokens = store.all_tokens
        self._eot = store.eot_id
        # Empty documents would make two starts equal; searchsorted on the right skips them.
        self._starts = starts
        # Target j of document d is the store's token j + shift[d].
        self._shift = begins - starts[:-1]

    @property
    def document_tokens(self) -> Ints:
        """Targets of each document of the list in the stream, int64; 0 after its end."""
        return np.diff(np.minimum(self._starts, self.n_tokens))

    def fingerprint(self, n_tokens: int) -> str:
        """SHA-256 of the first ``n_tokens`` targets: the documents in their order, their lengths,
        and how rows are cut. Streams that differ only later have the same one.
        """
        count = int(np.searchsorted(self._starts, n_tokens, side="left"))
        digest = hashlib.sha256(f"{self.packing} {self.sequence_length} {n_tokens}".encode())
        digest.update(np.ascontiguousarray(self._ids[self._documents[:count]]).data)
        digest.update(np.ascontiguousarray(self._starts[:count]).data)
        return digest.hexdigest()

    def rows(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` - 1, read straight from the memory map."""
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start} to {stop} of {self.n_rows}")
        length = self.sequence_length
        shape = (stop - start, length)
        first, last = start * length, min(stop * length, self.n_tokens)
        if first >= last:
            empty = np.empty((0, length), dtype=np.int64)
            return Batch(empty, empty, empty, empty, np.empty(0, dtype=np.int64), start)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        inputs = np.full(shape, self._eot, dtype=np.int64)
        segments = np.full(shape, NO_SEGMENT, dtype=np.int64)
        real = last - first
        owner = self._owners(first, last)
        gathered = self._tokens[np.arange(first, last) + self._shift[owner]]
        targets.reshape(-1)[:real] = gathered
        inputs.reshape(-1)[1:real] = gathered[:-1]
        inputs[0, 0] = self._token(first - 1)
        segments.reshape(-1)[:real] = owner
        counts = np.full(shape[0], length, dtype=np.int64)
        counts[-1] = real - (shape[0] - 1) * length
        return Batch(inputs, targets, segments, self._positions(segments), counts, start)

    def row_ids(self, row: int) -> npt.NDArray[np.uint64]:
        """The ids of the documents that have targets in ``row``, in order."""
        owners = self.rows(row, row + 1).segments[0]
        found: npt.NDArray[np.uint64]
        found = self._ids[self._documents[np.unique(owners[owners != NO_SEGMENT])]]
        return found

    def _owners(self, first: int, last: int) -> Ints:
        """The document of each target from ``first`` to ``last`` - 1."""
        low = int(np.searchsorted(self._starts, first, side="right")) - 1
        high = int(np.searchsorted(self._starts, last, side="left"))
        edges = np.clip(self._starts[low : high + 1], first, last)
        return np.repeat(np.arange(low, high, dtype=np.int64), np.diff(edges))

    def _token(self, target: int) -> int:
        """stream[target + 1]; the stream starts with end-of-text."""
        if target < 0:
            return self._eot
        owner = int(np.searchsorted(self._starts, target, side="right")) - 1
        return int(self._tokens[target + self._shift[owner]])

    def _positions(self, segments: Ints) -> Ints:
        ramp = np.arange(self.sequence_length, dtype=np.int64)
        if self.packing == "concat":
            return np.tile(ramp, (len(segments), 1))
        begins = np.zeros(segments.shape, dtype=np.int64)
        changed = segments[:, 1:] != segments[:, :-1]
        begins[:, 1:] = np.where(changed, ramp[1:], 0)
        restarted: Ints = ramp - np.maximum.accumulate(begins, axis=1)
        return restarted
