"""What requests name, opened: examples of a token store, a checkpoint's model, columns of queries,
and what a proxy run trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hpcscale.data.order import document_order
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError
from hpcscale.influence.aggregate import Groups, group_queries
from hpcscale.influence.capture_store import CapturedRows, read_capture
from hpcscale.influence.examples import DocumentExamples, RowExamples, all_examples, row_domains
from hpcscale.influence.factors import Direction
from hpcscale.influence.requests import Aggregation, CheckpointChoice, Measure, QuerySet
from hpcscale.influence.snapshots import AGAIN, read_snapshots
from hpcscale.model.build import load_model
from hpcscale.types import Ints


def examples_of(store: TokenStore, measure: Measure) -> DocumentExamples | RowExamples:
    """The documents of a store, or its rows packed as in training in an order of their own."""
    return all_examples(store, measure.unit, measure.sequence_length, measure.packing, measure.seed)


def checkpoint_of(
    snapshots: Path, number: int, power: float = 0.0, epsilon: float | None = None
) -> CheckpointChoice:
    """Snapshot ``number`` of a folder of snapshots, counted from 0.

    Raises CheckpointError where there are fewer.
    """
    found = read_snapshots(snapshots)
    if number >= len(found):
        raise CheckpointError(
            f"{snapshots} holds {len(found)} snapshots, and number {number + 1} is needed; {AGAIN}"
        )
    return CheckpointChoice(found[number].model, found[number], power, epsilon)


def load_checkpoint(
    checkpoint: CheckpointChoice, device: torch.device
) -> tuple[nn.Module, Direction | None]:
    """The model on ``device``, and P^power of Adam's metric; None for power 0."""
    model = load_model(checkpoint.model).to(device)
    if not checkpoint.power:
        return model, None
    assert checkpoint.snapshot is not None
    power, epsilon = checkpoint.power, checkpoint.epsilon
    return model, checkpoint.snapshot.preconditioner(power, device, epsilon)


def query_groups(aggregation: Aggregation, queries: QuerySet | None) -> Groups:
    """The columns of score blocks. A packed row is of the domain that most of its tokens are of."""
    if queries is None:
        return group_queries("self", np.zeros(0, int), ())
    store = TokenStore.open(queries.store)
    examples = examples_of(store, queries.measure)
    domains: npt.NDArray[np.integer[Any]] = store.domains
    if isinstance(examples, RowExamples):
        domains = row_domains(examples, store.domains)
    return group_queries(aggregation.kind, domains, store.domain_names, aggregation.query_weights)


def proxy_stream(store: TokenStore, measure: Measure, tokens: int) -> tuple[PackedStream, Ints]:
    """What a proxy run of ``tokens`` tokens trains on, and the store's documents in its order."""
    order = document_order(store.ids, measure.seed)
    stream = PackedStream(store, order, tokens, measure.sequence_length, measure.packing)
    return stream, order


def captured_ordinals(
    captured: CapturedRows, store: TokenStore, measure: Measure
) -> tuple[Ints, int]:
    """The example that each captured row is a piece of, int64, and how many examples there are."""
    if measure.unit == "sequence":
        stream, _ = proxy_stream(store, measure, int(captured.facts["tokens"]))
        return captured.ids.astype(np.int64), stream.n_rows
    return store.index_of(captured.ids), store.n_documents


def scored_examples(
    store: TokenStore, measure: Measure, captured: Path | None
) -> DocumentExamples | RowExamples:
    """What score blocks have a row of: examples of the store, or of what was captured of it."""
    if captured is None or measure.unit == "document":
        return examples_of(store, measure)
    tokens = int(read_capture(captured).facts["tokens"])
    return RowExamples(*proxy_stream(store, measure, tokens))
