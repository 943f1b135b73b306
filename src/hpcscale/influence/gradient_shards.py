"""Gradient shards: the sketched gradients of a task's examples, one shard a rank.

=================  ==========================  ================================================
``gradients``      fp16, bf16 or fp32, [n, d]  each example's sketch, scaled to norm 1
``norms``          float32, [n]                the norms that were scaled away
=================  ==========================  ================================================

Norm 1 keeps 16-bit numbers in range whatever the scale of a gradient, and makes cosines free. bf16
is stored as its bits in uint16, since ``.npy`` has no such type. ``row_files.py`` says which files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpcscale.errors import DataError
from hpcscale.influence.row_files import Part, Rows, RowWriter
from hpcscale.types import Ints

#: How a number is stored: its type on disk, and as torch reads it.
STORED: dict[str, tuple[type[np.generic], torch.dtype]] = {
    "fp16": (np.float16, torch.float16),
    "bf16": (np.uint16, torch.bfloat16),
    "fp32": (np.float32, torch.float32),
}


def shard_parts(dtype: str, dimension: int) -> dict[str, Part]:
    """The arrays of a gradient shard."""
    return {"gradients": Part(STORED[dtype][0], dimension), "norms": Part(np.float32)}


class ShardWriter:
    """Writes one rank's shard of ``examples``, or goes on with it."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        examples: Ints,
        dimension: int,
        dtype: str,
        facts: Mapping[str, Any],
    ) -> None:
        self.dtype = dtype
        facts = {**facts, "dtype": dtype, "dimension": dimension}
        self.rows = RowWriter(folder, rank, examples, shard_parts(dtype, dimension), facts)

    @property
    def done(self) -> int:
        return self.rows.done

    def write(self, first: int, sketches: Tensor) -> None:
        """Rows ``first`` and on: float [k, dimension], as they come from the sketch.

        Raises DataError where one is not finite: it would poison every score that it meets.
        """
        stored, norms = pack(sketches, self.dtype)
        broken = np.flatnonzero(~np.isfinite(norms))
        if len(broken):
            raise DataError(
                f"the gradient of example {first + int(broken[0])} of {self.rows.folder} is not "
                "finite; the checkpoint is broken or of too low a precision: try "
                "`train.precision: fp32`"
            )
        self.rows.write(first, gradients=stored, norms=norms)

    def commit(self, rows: int) -> None:
        self.rows.commit(rows)


class GradientShard:
    """Read access to what a task's ranks wrote, in the order of the examples."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError naming the file that is missing, damaged or not finished."""
        self.rows = Rows(folder, ("gradients", "norms"))
        self.folder, self.examples = folder, self.rows.examples
        self.dtype = str(self.rows.facts["dtype"])
        self.dimension = self.rows.columns("gradients")
        self.norms: npt.NDArray[np.float32] = self.rows.whole("norms")

    @property
    def projection(self) -> tuple[Any, object]:
        """Its projection, and what it is called, for ``check_projections``."""
        return self.rows.facts.get("sketch"), self.folder

    def __len__(self) -> int:
        return len(self.examples)

    def blocks(self, rows: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, float32 [<= rows, dimension]): rows of norm 1."""
        for first, block in self.rows.blocks("gradients", rows):
            yield first, unpack(block, self.dtype)


def pack(rows: Tensor, dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Rows [n, d] scaled to norm 1 as they are stored, and their norms [n]."""
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    # An example whose gradient is zero stays a row of zeros.
    scale = norms.clamp(min=torch.finfo(torch.float32).tiny).to(rows)
    stored = (rows / scale[:, None]).to("cpu", STORED[dtype][1])
    bits = stored.view(torch.uint16) if dtype == "bf16" else stored
    return bits.numpy(), norms.cpu().numpy()


def unpack(block: npt.NDArray[Any], dtype: str) -> Tensor:
    """Stored numbers as float32."""
    raw = torch.from_numpy(np.array(block))
    return (raw.view(torch.bfloat16) if dtype == "bf16" else raw).float()


def check_projections(sides: Sequence[tuple[Any, object]]) -> None:
    """Each side: its projection, and what it is called. Raises DataError where they differ."""
    if any(projection != sides[0][0] for projection, _ in sides):
        listed = "; ".join(f"{name}: {projection}" for projection, name in sides)
        raise DataError(
            f"gradients of different projections do not fit together ({listed}); take both sides "
            "with the same projection"
        )
