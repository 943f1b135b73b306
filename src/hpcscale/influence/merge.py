"""Merging: score blocks of all checkpoints, pool shards and query shards as one row a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpcscale.errors import DataError
from hpcscale.influence.aggregate import Kind
from hpcscale.influence.blocks import SCORES, read_block
from hpcscale.influence.row_files import Rows
from hpcscale.types import Floats

#: Numbers that are held at a time: 256 MB.
_HELD = 1 << 25


@dataclass(frozen=True)
class Merged:
    """Influence of each example, learning rates included.

    total: float64 [examples]. by_checkpoint: float64 [examples, checkpoints], which sum to it.
    by_column: float64 [examples, columns] where the columns are a result of their own (domains).
    best: int64 [examples], the column whose influence is the total, where one was chosen.
    NaN: no gradient of the example was captured.
    """

    total: Floats
    by_checkpoint: Floats
    columns: tuple[str, ...] = ()
    by_column: Floats | None = None
    best: npt.NDArray[np.int64] | None = None


def merge_blocks(
    blocks: Sequence[Sequence[Sequence[Path]]],
    etas: Sequence[float],
    kind: Kind,
    count: int,
    partial: bool = False,
) -> Merged:
    """Sum ``blocks[checkpoint][pool shard][query shard]``, each checkpoint times its eta.

    etas: the learning rate that each checkpoint stands for. count: of the examples that the blocks
    must cover, in order. ``partial`` lets examples have no score. Raises DataError naming the block
    that is missing, of another size, or holds NaN or infinity.
    """
    total, by_checkpoint = np.empty(count), np.empty((count, len(etas)))
    by_column: list[Floats] = []
    best = np.zeros(count, dtype=np.int64)
    names: tuple[str, ...] = ()
    done = 0
    for shard in range(len(blocks[0])):
        rows = [[read_block(path) for path in of[shard]] for of in blocks]
        _check(rows, done)
        names = tuple(name for block in rows[0] for name in block.facts["columns"])
        if kind != "max":
            names = tuple(rows[0][0].facts["columns"])
        for values in _chunks(rows, joined=kind == "max"):
            if not (partial or np.isfinite(values).all()):
                raise DataError(
                    f"{_broken(rows)} holds a score that is no number; delete it and run the same "
                    "command again"
                )
            weighted = values * np.asarray(etas)[:, None, None]
            part = slice(done, done + values.shape[1])
            sums = _sum(weighted)
            choice = sums.argmax(1) if np.isfinite(sums).all() else _best(sums)
            best[part] = choice
            take = choice[:, None]
            total[part] = np.take_along_axis(sums, take, 1)[:, 0]
            by_checkpoint[part] = np.take_along_axis(weighted, take[None], 2)[:, :, 0].T
            if kind == "domain":
                by_column.append(sums)
            done = part.stop
    if done != count:
        raise DataError(
            f"the score blocks cover {done} of {count} examples; run the same command again, which "
            "makes those that are missing"
        )
    if kind == "domain":
        return Merged(total, by_checkpoint, names, np.concatenate(by_column), best)
    return Merged(total, by_checkpoint, names, None, best if kind == "max" else None)


def _sum(weighted: Floats) -> Floats:
    """Over checkpoints [C, k, columns]; NaN where all are NaN."""
    seen = np.isfinite(weighted)
    sums: Floats = np.where(seen, weighted, 0).sum(0)
    sums[~seen.any(0)] = np.nan
    return sums


def _best(sums: Floats) -> npt.NDArray[np.int64]:
    filled: Floats = np.where(np.isfinite(sums), sums, -np.inf)
    choice: npt.NDArray[np.int64] = filled.argmax(1)
    return choice


def _check(rows: Sequence[Sequence[Rows]], first: int) -> None:
    """The blocks of one pool shard are of the same examples, which follow on those before."""
    expected = np.arange(first, first + len(rows[0][0]))
    for of in rows:
        for block in of:
            if not np.array_equal(block.examples, expected):
                raise DataError(
                    f"{block.folder} holds {len(block)} examples that are not the {len(expected)} "
                    f"from {first} on; delete it and run the same command again"
                )


def _chunks(rows: Sequence[Sequence[Rows]], joined: bool) -> Iterator[Floats]:
    """Float64 [checkpoints, k, columns]: query shards side by side, or summed."""
    columns = sum(block.columns(SCORES) for block in rows[0])
    step = max(1, _HELD // (columns * len(rows)))
    for first in range(0, len(rows[0][0]), step):
        parts = [
            [block.slice(SCORES, first, first + step).astype(np.float64) for block in of]
            for of in rows
        ]
        if joined:
            yield np.stack([np.concatenate(of, axis=1) for of in parts])
        else:
            yield np.stack([np.sum(of, axis=0) for of in parts])


def _broken(rows: Sequence[Sequence[Rows]]) -> Path:
    return next(
        block.folder for of in rows for block in of if not np.isfinite(block.whole(SCORES)).all()
    )
