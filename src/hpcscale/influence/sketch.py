"""Random projection of gradients that are never formed.

A matrix gradient G = sum_t l_t r_t^T is made small from both sides, L^T G R = sum_t (L^T l_t)
(R^T r_t)^T, as LoGra (Choe et al. 2024, arXiv 2405.13954) does, but with count sketches
for L and R, which need no product; sides no wider than their rank stay as they are. What remains of
all parameters is hashed once more, into ``dimension`` columns. Every step keeps inner products in
expectation:
E<S g, S h> = <g, h>.

Everything random comes from (seed, parameter name), so all ranks and tasks hold the same matrices
without communication, and a tied parameter, which has one name, has one projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hpcscale.errors import ConfigError
from hpcscale.influence.count_sketch import CountSketch, generator
from hpcscale.influence.factors import Direction, Factor, OuterProduct, Vector
from hpcscale.influence.spans import TokenGroups

#: Elements of the largest temporary of gradients, so that memory stays bounded.
_DENSE = 1 << 26
#: Columns that ``auto`` leaves a side at least, and the part of a wider side that it leaves.
_LEAST, _PART = 64, 4


@dataclass(frozen=True)
class Projection:
    """rank: columns that are left of each side of a matrix. dimension: of the whole sketch.

    None: no such step; both None is the full gradient. ``auto`` leaves a quarter of a side, and
    64 columns at least: products then cost a sixteenth of those of a training step's gradients.
    """

    rank: int | Literal["auto"] | None = "auto"
    dimension: int | None = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "dimension"):
            value = getattr(self, name)
            if value is None or (name, value) == ("rank", "auto"):
                continue
            if isinstance(value, str) or value < 1:
                raise ConfigError(f"projection {name} {value} is no size; write 1 or more")

    def side(self, size: int) -> int:
        """Columns that are left of a side of ``size``."""
        if self.rank is None:
            return size
        if self.rank == "auto":
            return min(size, max(_LEAST, -(-size // _PART)))
        return min(size, self.rank)


@dataclass(frozen=True)
class _Block:
    """One parameter: its sides where they are hashed, the shape that is left, and its columns.

    ``fold`` hashes them into the sketch; where it is None they have a ``place`` of their own.
    """

    shape: tuple[int, ...]
    left: CountSketch | None
    right: CountSketch | None
    small: tuple[int, ...]
    place: slice
    fold: CountSketch | None
    rows: tuple[Tensor, Tensor] | None

    def put(self, into: Tensor, values: Tensor, signs: Tensor | None = None) -> None:
        if self.fold is None:
            into[:, self.place] += values
        else:
            self.fold.add(into, values, signs)


class Sketch:
    """The projection for one model: features of examples, [U, dimension], from token factors.

    Rows are collected ``width`` columns wide and made ``dimension`` columns by ``fold``.
    """

    def __init__(
        self,
        model: nn.Module,
        projection: Projection,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.projection, self.device, self.dtype = projection, device, dtype
        self.blocks: dict[str, _Block] = {}
        #: What is left of all parameters before it is hashed into the sketch.
        self.columns = 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.blocks[name] = self._block(name, tuple(parameter.shape))
                self.columns = self.blocks[name].place.stop
        self.dimension = projection.dimension or self.columns
        self.width = 2 * self.dimension if projection.dimension else self.dimension

    def _block(self, name: str, shape: tuple[int, ...]) -> _Block:
        small, sides = list(shape), [None, None]  # type: tuple[list[int], list[CountSketch | None]]
        if len(shape) == 2:
            small = [self.projection.side(size) for size in shape]
            sides = [
                self._count_sketch(size, left, name, str(axis)) if left < size else None
                for axis, (size, left) in enumerate(zip(shape, small, strict=True))
            ]
        size, dimension = math.prod(small), self.projection.dimension
        return _Block(
            shape,
            sides[0],
            sides[1],
            tuple(small),
            slice(self.columns, self.columns + size),
            None if dimension is None else self._count_sketch(size, dimension, name, "columns"),
            None if sides[0] is None else sides[0].row_places(),
        )

    def _count_sketch(self, size: int, buckets: int, *words: str) -> CountSketch:
        random = generator(self.projection.seed, *words)
        return CountSketch(size, buckets, random, self.device, self.dtype)

    def collect(self, examples: int) -> Tensor:
        """Zeros to add to, [examples, width]."""
        return torch.zeros(examples, self.width, device=self.device, dtype=self.dtype)

    def fold(self, wide: Tensor) -> Tensor:
        """[U, width] as [U, dimension]."""
        if self.projection.dimension is None:
            return wide
        return wide[:, : self.dimension] + wide[:, self.dimension :]

    def add(
        self, wide: Tensor, name: str, factor: Factor, pieces: TokenGroups | None = None
    ) -> None:
        """Add a parameter's gradient of each row of the batch, or of each piece, to ``wide``."""
        block = self.blocks.get(name)
        if block is None:
            return
        if isinstance(factor, Vector):
            value = factor.value
            block.put(wide, value.sum(1) if pieces is None else pieces.sums(value))
            return
        left = factor.left
        if block.left is not None and not factor.by_row:
            left = block.left.hash(left)
        right = factor.right if block.right is None else block.right.hash(factor.right)
        if pieces is not None:
            left, right = pieces.spread(left), pieces.spread_or_zero(right)
        if block.rows is not None and factor.by_row:
            places, signs = block.rows
            right = right * signs[left][..., None]
            left = places[left]
        for part in _parts(len(wide), block.small):
            small = _gradient(OuterProduct(left[part], right[part]), block.small)
            block.put(wide[part], small.flatten(1))

    def add_scaled(self, wide: Tensor, name: str, factor: Factor, scale: Tensor) -> None:
        """As ``add``, of gradients that are first multiplied by ``scale`` (of the parameter's
        shape), element by element; they are formed, a few rows at a time."""
        block = self.blocks.get(name)
        if block is None:
            return
        if isinstance(factor, Vector):
            block.put(wide, factor.value.sum(1) * scale)
            return
        signs = None
        if block.left is None and block.right is None and block.fold is not None:
            signs = block.fold.signs * scale.flatten()
        for part in _parts(len(wide), block.shape):
            dense = _gradient(OuterProduct(factor.left[part], factor.right[part]), block.shape)
            if signs is None:
                dense = _both_sides(block, dense.mul_(scale))
            block.put(wide[part], dense.flatten(1), signs)

    def of(self, gradient: Direction) -> Tensor:
        """The sketch [dimension] of a gradient that is there in full."""
        wide = self.collect(1)
        for name, block in self.blocks.items():
            dense = gradient[name].to(self.device, self.dtype)[None]
            block.put(wide, dense if dense.ndim == 2 else _both_sides(block, dense).flatten(1))
        return self.fold(wide)[0]


def _parts(count: int, shape: tuple[int, ...]) -> list[slice]:
    """Rows of gradients of ``shape``, as many at a time as memory should hold."""
    rows = max(1, _DENSE // math.prod(shape))
    return [slice(first, first + rows) for first in range(0, count, rows)]


def _both_sides(block: _Block, dense: Tensor) -> Tensor:
    if block.right is not None:
        dense = block.right.hash(dense)
    if block.left is not None:
        dense = block.left.hash(dense.transpose(1, 2)).transpose(1, 2)
    return dense


def _gradient(factor: OuterProduct, shape: tuple[int, ...]) -> Tensor:
    """The sum of each row's tokens, [B, *shape]."""
    if factor.by_row:
        return _sum_rows(factor.left, factor.right, shape)
    return torch.bmm(factor.left.transpose(1, 2), factor.right)


def _sum_rows(numbers: Tensor, right: Tensor, shape: tuple[int, ...]) -> Tensor:
    """sum_t e(number_t) right_t^T of each example: [U, L], [U, L, cols] to [U, rows, cols]."""
    examples, rows = len(numbers), shape[0]
    total = right.new_zeros(examples * rows, right.shape[-1])
    base = torch.arange(examples, device=right.device)[:, None] * rows
    total.index_add_(0, (base + numbers).flatten(), right.flatten(0, 1))
    return total.view(examples, rows, -1)
