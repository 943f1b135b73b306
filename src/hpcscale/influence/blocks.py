"""Score blocks: a pool shard against a query shard at one checkpoint, by matrix multiplication.

A block holds <g(i), g(q)> of every example and column (aggregate.Groups), before the learning rate.
Gradients are read from memory maps a few thousand rows at a time, so memory does not grow with the
pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpcscale.errors import DataError
from hpcscale.influence.aggregate import Groups
from hpcscale.influence.gradient_shards import GradientShard, check_projections
from hpcscale.influence.row_files import Part, Rows, RowWriter, output_names
from hpcscale.types import Progress

SCORES = "scores"
#: Elements of a block of gradients that are held as float32 at a time: 64 MB.
_HELD = 1 << 24
#: Columns whose products are summed in float32; longer sums go on in float64.
_STRETCH = 1 << 14
#: Rows between two commits, behind which a killed task continues.
_COMMIT = 1 << 15


def score_block(
    pool: GradientShard,
    query: GradientShard | None,
    groups: Groups,
    normalise: bool,
    out: Path,
    key: str = "",
    progress: Progress | None = None,
) -> list[str]:
    """Write the block of ``pool`` against ``query`` (None: self-influence); its files' names.

    ``groups`` are of this query shard. With ``normalise`` both sides are divided by their norms.
    """
    if query is None:
        targets = None
    else:
        check_projections([pool.projection, query.projection])
        targets = targets_of(query, groups, normalise)
    columns = len(groups.names)
    parts = {SCORES: Part(np.float32, columns)}
    facts = {"key": key, "columns": list(groups.names)}
    writer = RowWriter(out, 0, pool.examples, parts, facts)
    step = max(1, _HELD // pool.dimension)
    for first, scores in _products(pool, targets, step, writer.done, columns):
        last = first + len(scores)
        if not normalise:
            scores *= pool.norms[first:last, None]
            if targets is None:
                scores *= pool.norms[first:last, None]
        writer.write(first, **{SCORES: scores})
        if last - writer.done >= _COMMIT or last == len(pool):
            writer.commit(last)
        if progress:
            progress(last, len(pool))
    return output_names(parts, 1)


def _products(
    pool: GradientShard, targets: Tensor | None, step: int, begin: int, columns: int
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(first row, float32 [k, columns]) of rows of norm 1; a document along itself is 1."""
    if targets is None:
        for first in range(begin, len(pool), step):
            count = min(step, len(pool) - first)
            yield first, np.ones((count, columns), np.float32)
        return
    held: Tensor | None = None
    for first, rows in pool.blocks(step):
        if first < begin:
            continue
        if pool.dimension <= _STRETCH:
            # One buffer: freed and allocated again, it would cost page faults.
            if held is None or len(held) != len(rows):
                held = torch.empty(len(rows), targets.shape[1])
            yield first, torch.matmul(rows, targets, out=held).numpy()
        else:
            yield first, _long_product(rows, targets)


def _long_product(rows: Tensor, targets: Tensor) -> npt.NDArray[np.float32]:
    """rows @ targets, stretch by stretch: one float32 sum over millions of terms loses digits."""
    total = torch.zeros(len(rows), targets.shape[1], dtype=torch.float64)
    for first in range(0, rows.shape[1], _STRETCH):
        part = slice(first, first + _STRETCH)
        total += rows[:, part] @ targets[part]
    product: npt.NDArray[np.float32] = total.float().numpy()
    return product


def targets_of(query: GradientShard, groups: Groups, normalise: bool) -> Tensor:
    """What rows are multiplied with: float32 [dimension, columns]."""
    columns = len(query) if groups.weights is None else len(groups.names)
    if groups.weights is not None and groups.weights.shape[1] != len(query):
        raise DataError(
            f"{query.folder} holds {len(query)} queries, not {groups.weights.shape[1]}; delete it "
            "and run the same command again"
        )
    total = torch.zeros(query.dimension, columns, dtype=torch.float64)
    step = max(1, _HELD // query.dimension)
    for first, rows in query.blocks(step):
        last = first + len(rows)
        if not normalise:
            rows = rows * torch.from_numpy(query.norms[first:last, None].copy())
        if groups.weights is None:
            total[:, first:last] = rows.T
        else:
            weights = torch.from_numpy(groups.weights[:, first:last].T.copy())
            total += rows.T.double() @ weights
    return total.float().contiguous()


def read_block(folder: Path) -> Rows:
    """A written block: part ``scores``, float [examples, columns]."""
    return Rows(folder, (SCORES,))
