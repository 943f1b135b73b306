"""What is scored: an example is a document by itself, or a packed row (``unit: sequence``).

The loss of a batch is the sum over its examples of each example's mean token loss: what the rows of
an example contribute to a gradient adds up to the gradient of the example's own mean token loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpcscale.data.order import document_order
from hpcscale.data.packing import PackedStream, Packing
from hpcscale.data.store import TokenStore
from hpcscale.data.windows import batch_windows, document_windows, gather_windows
from hpcscale.influence.spans import Unit
from hpcscale.model.forward import token_nll
from hpcscale.types import Floats, Ints

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Tokens of one batch: enough to fill the cores, and few enough for the logits to fit.
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Rows of tokens, [B, T] each. ``example``: int64 [B], the example that each row is (part) of.

    ``share``: float64 [B, T], the weight of each target's nll: 1 over its example's tokens, 0 on
    pads.
    """

    inputs: Ints
    targets: Ints
    positions: Ints
    segments: Ints | None
    example: Ints
    share: Floats


class Examples(Protocol):
    """Something to score, ``count`` examples of ``tokens`` (int64 [count]) tokens each."""

    tokens: Ints

    @property
    def count(self) -> int: ...

    def batches(
        self, which: Ints, batch_tokens: int, max_rows: int | None = None
    ) -> Iterator[ExampleBatch]:
        """The examples ``which``, ordinals; ``ExampleBatch.example`` counts within ``which``."""


class DocumentExamples:
    """Documents, each by itself; one longer than ``length`` in pieces that weigh by their tokens.

    positions: int64 [n], rows of ``store``.
    """

    def __init__(self, store: TokenStore, positions: Ints, length: int) -> None:
        self.store, self.positions, self.length = store, positions, length
        self.tokens = store.lengths[positions].astype(np.int64)

    @property
    def count(self) -> int:
        return len(self.positions)

    def batches(
        self, which: Ints, batch_tokens: int, max_rows: int | None = None
    ) -> Iterator[ExampleBatch]:
        chosen, sizes = self.positions[which], self.tokens[which]
        windows = document_windows(self.store, chosen, self.length)
        for group in batch_windows(windows, max(batch_tokens, self.length), max_rows):
            inputs, targets = gather_windows(self.store, chosen, group)
            ramp = np.arange(inputs.shape[1], dtype=np.int64)
            share = (ramp < group[:, 2:]) / sizes[group[:, 0], None]
            positions = np.tile(ramp, (len(group), 1))
            yield ExampleBatch(inputs, targets, positions, None, group[:, 0], share)


class RowExamples:
    """The rows of a packed stream, under the packing that training uses.

    ``order``: int64 [documents], the rows of the store that the stream packs, in its order.
    """

    def __init__(self, stream: PackedStream, order: Ints | None = None) -> None:
        self.stream, self.order = stream, order
        full = np.full(stream.n_rows, stream.sequence_length, dtype=np.int64)
        if stream.n_rows:
            full[-1] = stream.n_tokens - (stream.n_rows - 1) * stream.sequence_length
        self.tokens = full

    @property
    def count(self) -> int:
        return self.stream.n_rows

    def batches(
        self, which: Ints, batch_tokens: int, max_rows: int | None = None
    ) -> Iterator[ExampleBatch]:
        size = max(1, batch_tokens // self.stream.sequence_length)
        size = min(size, max_rows or size)
        for first in range(0, len(which), size):
            rows = which[first : first + size]
            parts = [self.stream.rows(int(row), int(row) + 1) for row in rows]
            inputs, targets, positions, segments = (
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("inputs", "targets", "positions", "segments")
            )
            share = (segments >= 0) / self.tokens[rows, None]
            example = np.arange(first, first + len(rows))
            apart = segments if self.stream.packing == "isolate" else None
            yield ExampleBatch(inputs, targets, positions, apart, example, share)


def all_examples(
    store: TokenStore, unit: Unit, length: int, packing: Packing, seed: int = 0
) -> DocumentExamples | RowExamples:
    """Every document of a store in its order, or (``sequence``) all packed in a seeded order."""
    if unit == "document":
        return DocumentExamples(store, np.arange(store.n_documents, dtype=np.int64), length)
    order = document_order(store.ids, seed)
    return RowExamples(PackedStream(store, order, None, length, packing), order)


def batch_loss(
    model: nn.Module,
    batch: ExampleBatch,
    device: torch.device,
    precision: str = "fp32",
    weights: Tensor | None = None,
) -> Tensor:
    """Sum over the batch's examples of their mean token loss, times their weights [B] if given."""
    segments = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        nll = token_nll(
            model,
            torch.from_numpy(batch.inputs).to(device),
            torch.from_numpy(batch.targets).to(device),
            segments,
            torch.from_numpy(batch.positions).to(device),
        )
    share = torch.from_numpy(batch.share).to(nll)
    if weights is not None:
        share = share * weights.to(nll)[:, None]
    return (nll * share).sum()


def document_scores(stream: PackedStream, rows: Floats, documents: int) -> Floats:
    """Scores [rows, ..] of packed rows as scores of the stream's documents, in its order.

    A document has the mean of its rows' scores, weighted by its tokens in each; NaN without any.
    """
    total = np.zeros((documents, *rows.shape[1:]))
    tokens = np.zeros(documents)
    for document, row, count in _shares(stream):
        np.add.at(total, document, rows[row] * _column(count, rows.ndim))
        np.add.at(tokens, document, count)
    total[tokens == 0] = np.nan
    scores: Floats = total / _column(np.maximum(tokens, 1), rows.ndim)
    return scores


def row_domains(examples: RowExamples, domains: npt.NDArray[np.integer[Any]]) -> Ints:
    """The domain that most tokens of each row are of; ``domains`` [documents] of the store."""
    assert examples.order is not None
    counts = np.zeros((examples.count, int(domains.max()) + 1))
    for document, row, count in _shares(examples.stream):
        np.add.at(counts, (row, domains[examples.order[document]]), count)
    most: Ints = counts.argmax(1)
    return most


def _shares(stream: PackedStream) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(document, row, the document's tokens in it) of every pair that shares any."""
    step = 1024
    for first in range(0, stream.n_rows, step):
        segments = stream.rows(first, min(first + step, stream.n_rows)).segments
        row, column = np.nonzero(segments >= 0)
        pairs, counts = np.unique(
            np.stack([segments[row, column], row + first]), axis=1, return_counts=True
        )
        yield pairs[0], pairs[1], counts


def _column(values: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    return values.reshape(-1, *([1] * (ndim - 1)))
