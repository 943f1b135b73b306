"""Dumping: the sketched gradients of a range of examples, one checkpoint, one rank's shard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from hpcscale.data.shards import shard_range
from hpcscale.influence.examples import BATCH_TOKENS, Examples
from hpcscale.influence.factors import Direction
from hpcscale.influence.gradient_shards import ShardWriter, shard_parts
from hpcscale.influence.gradients import example_features
from hpcscale.influence.row_files import drop_other_ranks, output_names
from hpcscale.influence.sketch import Sketch
from hpcscale.train.distributed import Ranks
from hpcscale.types import Progress

#: Batches of one block of rows: what a kill can cost.
_BLOCK = 16
#: Bytes of one block of rows in memory.
_BLOCK_BYTES = 1 << 28


@dataclass(frozen=True)
class DumpOptions:
    """dtype: fp16, bf16 or fp32. key: of what decides the rows; a partial shard of another key is
    started over. batch_tokens changes speed, memory and rounding."""

    dtype: str = "fp16"
    precision: str = "fp32"
    key: str = ""
    batch_tokens: int = BATCH_TOKENS


def dump_examples(
    model: nn.Module,
    examples: Examples,
    bounds: tuple[int, int],
    sketch: Sketch,
    out: Path,
    options: DumpOptions,
    *,
    ranks: Ranks,
    scale: Direction | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write this rank's part of the examples [first, last) of ``bounds``; the files of all ranks.

    ``scale`` is P^1/2 of an Adam-aware dump. Called by all ranks; continues behind the rows that
    an earlier attempt of as many ranks left.
    """
    mine = part_of(bounds, ranks)
    if ranks.rank == 0 and out.is_dir():
        drop_other_ranks(out, ranks.world_size)
    facts = {
        "key": options.key,
        "world_size": ranks.world_size,
        "sketch": asdict(sketch.projection),
        "preconditioned": scale is not None,
    }
    writer = ShardWriter(out, ranks.rank, mine, sketch.dimension, options.dtype, facts)
    tokens = examples.tokens[mine]
    most = max(1, _BLOCK_BYTES // (4 * sketch.dimension))
    for begin, end in row_blocks(tokens, writer.done, options.batch_tokens, most):
        sketches = example_features(
            model,
            examples,
            mine[begin:end],
            sketch,
            precision=options.precision,
            scale=scale,
            batch_tokens=options.batch_tokens,
        )
        writer.write(begin, sketches)
        writer.commit(end)
        if progress:
            progress(int(tokens[:end].sum()), int(tokens.sum()))
    ranks.barrier()
    return output_names(shard_parts(options.dtype, sketch.dimension), ranks.world_size)


def part_of(bounds: tuple[int, int], ranks: Ranks) -> npt.NDArray[np.int64]:
    """The examples of [first, last) that are this rank's, contiguous and in order."""
    first, last = bounds
    begin, end = shard_range(ranks.rank, ranks.world_size, last - first)
    return np.arange(first + begin, first + end, dtype=np.int64)


def row_blocks(
    tokens: npt.NDArray[np.int64], begin: int, batch_tokens: int, most: int
) -> list[tuple[int, int]]:
    """Ranges of rows from ``begin`` on, cut where a whole run would cut them too."""
    ends: list[int] = []
    held = 0
    for row, size in enumerate(tokens):
        held += int(size)
        full = held >= _BLOCK * batch_tokens or row + 1 - (ends[-1] if ends else 0) >= most
        if full or row == len(tokens) - 1:
            ends.append(row + 1)
            held = 0
    starts = [0, *ends]  # one more than there are blocks
    return [(s, e) for s, e in zip(starts, ends, strict=False) if s >= begin]
