"""Score blocks of captured gradients: what the proxy run trained on in one interval.

Each row counts with the learning rate of its own step, so that the block needs no eta; queries are
those of the snapshot that ends the interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpcscale.influence.aggregate import Groups
from hpcscale.influence.blocks import SCORES, targets_of
from hpcscale.influence.capture_store import CapturedRows
from hpcscale.influence.gradient_shards import GradientShard, check_projections, unpack
from hpcscale.influence.row_files import Part, RowWriter, output_names
from hpcscale.types import Ints

#: Elements of captured gradients that are held as float32 at a time: 64 MB.
_HELD = 1 << 24


def captured_block(
    captured: CapturedRows,
    interval: int,
    ordinals: Ints,
    count: int,
    query: GradientShard | None,
    groups: Groups,
    normalise: bool,
    out: Path,
) -> list[str]:
    """Write the block of what was captured in ``interval``; NaN for examples that were not.

    ordinals: int64, the example that each captured row is a piece of. count: of all examples. The
    pieces of an example in one step are one gradient; with ``normalise`` it is divided by its norm
    and weighs as many of the example's tokens as the step held.
    """
    targets = None
    if query is not None:
        check_projections([(captured.facts["projection"], "the capture"), query.projection])
        targets = targets_of(query, groups, normalise)
    columns = len(groups.names)
    parts = {SCORES: Part(np.float64, columns)}
    everything = np.arange(count, dtype=np.int64)
    writer = RowWriter(out, 0, everything, parts, {"key": "", "columns": list(groups.names)})
    block = writer.arrays[SCORES]
    block[:] = np.nan
    for example, scores in _scores(captured, interval, ordinals, targets, normalise):
        block[example] = np.where(np.isnan(block[example]), 0, block[example])
        np.add.at(block, example, scores)
    writer.commit(count)
    return output_names(parts, 1)


def _scores(
    captured: CapturedRows,
    interval: int,
    ordinals: Ints,
    targets: Tensor | None,
    normalise: bool,
) -> Iterator[tuple[Ints, npt.NDArray[np.float64]]]:
    """(example [k], scores [k, columns]) of gradients in chunks; an example comes once a step."""
    chosen = np.flatnonzero(captured.intervals == interval)
    steps, owner = captured.steps[chosen], ordinals[chosen]
    by_step = np.lexsort((owner, steps))
    chosen, steps, owner = chosen[by_step], steps[by_step], owner[by_step]
    begins = np.flatnonzero(np.diff(steps, prepend=-1) | (np.diff(owner, prepend=-1) != 0))
    ends = np.append(begins[1:], len(chosen))
    step = max(1, _HELD // captured.dimension)
    first = 0
    while first < len(begins):
        # As many whole gradients as ``step`` rows hold; one at least.
        last = max(first + 1, int(np.searchsorted(ends, begins[first] + step, side="right")))
        rows = chosen[begins[first] : ends[last - 1]]
        group = np.repeat(np.arange(last - first), ends[first:last] - begins[first:last])
        weights = np.bincount(group, captured.shares[rows]).astype(np.float64)
        gradients = _summed(captured, rows, group, last - first)
        rates = captured.rates[chosen[begins[first:last]]].astype(np.float64)
        values = _products(gradients, targets, normalise, weights) * rates[:, None]
        yield owner[begins[first:last]], values
        first = last


def _summed(captured: CapturedRows, rows: Ints, group: Ints, groups: int) -> Tensor:
    """The pieces of each group added up, float32 [groups, dimension]."""
    pieces = unpack(captured.take(rows), captured.dtype)
    pieces *= torch.from_numpy(captured.norms[rows])[:, None]
    total = torch.zeros(groups, captured.dimension)
    return total.index_add_(0, torch.from_numpy(group), pieces)


def _products(
    gradients: Tensor, targets: Tensor | None, normalise: bool, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).numpy()
    if targets is None:
        squares: npt.NDArray[np.float64] = norms[:, None] ** 2
        return squares
    products: npt.NDArray[np.float64] = (gradients @ targets).double().numpy()
    if normalise:
        products *= (weights / np.where(norms > 0, norms, np.inf))[:, None]
    return products
