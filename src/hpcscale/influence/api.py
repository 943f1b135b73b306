"""Influence stage by stage: gradients, score blocks, merged scores.

    dump             gradients of a token store at a checkpoint
    score            a block of dumped gradients against those of queries
    score_captured   a block of gradients that a proxy run captured
    score_direct     a block without written gradients
    merge            all blocks as a table of one row a document

The steps of a sweep and ``hpcscale influence`` call these with requests (``requests.py``). What is
written depends on the request alone; a call that was killed continues where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hpcscale.atomic import write_parquet
from hpcscale.data.shards import shard_range
from hpcscale.data.store import TokenStore
from hpcscale.influence.aggregate import Groups
from hpcscale.influence.blocks import score_block
from hpcscale.influence.capture_blocks import captured_block
from hpcscale.influence.capture_store import read_capture
from hpcscale.influence.direct import direct_block, query_directions
from hpcscale.influence.dump import DumpOptions, dump_examples
from hpcscale.influence.gradient_shards import GradientShard
from hpcscale.influence.inputs import (
    captured_ordinals,
    examples_of,
    load_checkpoint,
    query_groups,
    scored_examples,
)
from hpcscale.influence.merge import merge_blocks
from hpcscale.influence.requests import (
    Aggregation,
    BlockRequest,
    CapturedBlockRequest,
    DirectRequest,
    DumpRequest,
    MergeRequest,
    QuerySet,
)
from hpcscale.influence.score_table import documents_of_rows, score_table
from hpcscale.influence.sketch import Sketch
from hpcscale.train.distributed import Ranks
from hpcscale.types import Floats, Progress


@dataclass(frozen=True)
class Dumped:
    """files: of all ranks, by name. dimension: numbers of a row. seconds: without loading."""

    files: list[str]
    dimension: int
    examples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Block:
    """files: of all ranks, by name. columns: by name."""

    files: list[str]
    columns: tuple[str, ...]


def dump(
    request: DumpRequest, out: Path, *, ranks: Ranks, progress: Progress | None = None
) -> Dumped:
    """Write this rank's gradients of the request into ``out``; called by all ranks.

    ``progress`` is called with tokens. Raises DataError for a gradient that is not finite.
    """
    measure = request.measure
    examples = examples_of(TokenStore.open(request.store), measure)
    first, last = shard_range(*request.shard, examples.count)
    model, scale = load_checkpoint(request.checkpoint, ranks.device)
    sketch = Sketch(model, measure.projection, ranks.device)
    started = time.monotonic()
    files = dump_examples(
        model,
        examples,
        (first, last),
        sketch,
        out,
        DumpOptions(measure.dtype, measure.precision, request.key, request.batch_tokens),
        ranks=ranks,
        scale=scale,
        progress=progress,
    )
    seconds = time.monotonic() - started
    tokens = int(examples.tokens[first:last].sum())
    return Dumped(files, sketch.dimension, last - first, tokens, seconds)


def score(request: BlockRequest, out: Path, progress: Progress | None = None) -> Block:
    """Write the request's score block into ``out``; ``progress`` is called with examples.

    Raises DataError where the two sides' gradients are of different projections, or are damaged.
    """
    queries, groups = _query_side(request.aggregation, request.queries)
    files = score_block(
        GradientShard(request.gradients),
        queries,
        groups,
        request.aggregation.cosine,
        out,
        key=request.key,
        progress=progress,
    )
    return Block(files, groups.names)


def score_captured(request: CapturedBlockRequest, out: Path) -> Block:
    """Write the request's score block into ``out``; examples that were not captured have NaN.

    Raises DataError where the two sides' gradients are of different projections, or are damaged.
    """
    queries, groups = _query_side(request.aggregation, request.queries)
    captured = read_capture(request.captured)
    ordinals, count = captured_ordinals(captured, TokenStore.open(request.pool), request.measure)
    files = captured_block(
        captured,
        request.interval,
        ordinals,
        count,
        queries,
        groups,
        request.aggregation.cosine,
        out,
    )
    return Block(files, groups.names)


def _query_side(
    aggregation: Aggregation, queries: QuerySet | None
) -> tuple[GradientShard | None, Groups]:
    """The written gradients of a shard of the queries, and its columns with their weights."""
    groups = query_groups(aggregation, queries)
    if queries is None:
        return None, groups
    assert queries.gradients is not None
    shard = GradientShard(queries.gradients)
    # More shards than queries leave some empty.
    first = int(shard.examples[0]) if len(shard) else 0
    return shard, groups.part(first, first + len(shard))


def score_direct(
    request: DirectRequest, out: Path, *, ranks: Ranks, progress: Progress | None = None
) -> Block:
    """Write this rank's rows of the request's score block into ``out``; called by all ranks.

    ``progress`` is called with tokens. Raises ConfigError for aggregate ``max``.
    """
    measure, aggregation = request.measure, request.aggregation
    pool = examples_of(TokenStore.open(request.pool), measure)
    queries = pool
    if request.queries is not None:
        queries = examples_of(TokenStore.open(request.queries.store), request.queries.measure)
    groups = query_groups(aggregation, request.queries)
    model, scale = load_checkpoint(request.checkpoint, ranks.device)
    options = DumpOptions(
        precision=measure.precision, key=request.key, batch_tokens=request.batch_tokens
    )
    along = query_directions(
        model, queries, groups, aggregation.cosine, scale, options, ranks.device
    )
    bounds = shard_range(*request.shard, pool.count)
    files = direct_block(model, pool, bounds, along, out, options, ranks=ranks, progress=progress)
    return Block(files, groups.names)


def merge(request: MergeRequest, out: Path) -> Floats:
    """Write the table of scores, ``out``, parquet; the scores, float64 [documents].

    NaN is the score of a document that was not captured. Raises DataError where a block is missing,
    damaged or does not fit the others.
    """
    store = TokenStore.open(request.pool)
    examples = scored_examples(store, request.measure, request.captured)
    captured = request.captured is not None
    # Each captured row already counts with the learning rate of its own step.
    etas = [1.0 if captured else checkpoint.eta for checkpoint in request.checkpoints]
    merged = merge_blocks(request.grid(), etas, request.kind, examples.count, partial=captured)
    if request.measure.unit == "sequence":
        merged = documents_of_rows(merged, examples, store.n_documents)
    queries = None if request.queries is None else TokenStore.open(request.queries)
    names = [checkpoint.name for checkpoint in request.checkpoints]
    write_parquet(out, score_table(store, merged, names, queries))
    return merged.total
