"""Random projection of gradients that are never formed.

A matrix gradient G = sum_t l_t r_t^T is projected from both sides, L^T G R = sum_t (L^T l_t)
(R^T r_t)^T with L and R of independent entries +-1/sqrt(rank); sides no wider than ``rank`` stay as
they are. What is left of all parameters is summed into ``dimension`` columns with random signs
(the count sketch of Charikar, Chen and Farach-Colton 2002, with balanced columns). Both steps keep
inner products in expectation: E<S g, S h> = <g, h>. The two-sided step is that of LoGra (Choe et
al. 2024, arXiv 2405.13954).

Everything random comes from (seed, parameter name), so all ranks and tasks hold the same matrices
without talking, and a tied parameter, which has one name, has one projection.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpcscale.errors import ConfigError
from hpcscale.influence.factors import Direction, Factor, Outer, Plain

#: Elements of the largest temporary of a full gradient, so that memory stays bounded.
_DENSE = 1 << 26


@dataclass(frozen=True)
class Projection:
    """rank: columns of each side's projection. dimension: of the whole sketch. None: no such step.

    Both None is the full gradient.
    """

    rank: int | None = 64
    dimension: int | None = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "dimension"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"projection {name} {value} is no size; write 1 or more")


@dataclass(frozen=True)
class _Block:
    """One parameter's place before the columns are summed; a side that is None stays as it is."""

    shape: tuple[int, ...]
    left: Tensor | None
    right: Tensor | None
    place: slice


class Sketch:
    """The projection for one model: features of units, [U, dimension], from token factors.

    Rows are collected wide, ``width`` columns, and then folded into ``dimension``.
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
        self.width = 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                block = self._block(name, tuple(parameter.shape))
                self.blocks[name] = block
                self.width = block.place.stop
        self.dimension = projection.dimension or self.width
        if projection.dimension is not None:
            self._picks, self._signs = self._columns()

    def _block(self, name: str, shape: tuple[int, ...]) -> _Block:
        seed, rank = self.projection.seed, self.projection.rank
        sides: list[Tensor | None] = [None, None]
        small = list(shape)
        if rank is not None and len(shape) == 2:
            for axis, size in enumerate(shape):
                if size > rank:
                    signs = _signs((size, rank), seed, name, str(axis))
                    sides[axis] = signs.to(self.device, self.dtype) / rank**0.5
                    small[axis] = rank
        place = slice(self.width, self.width + math.prod(small))
        return _Block(shape, sides[0], sides[1], place)

    def _columns(self) -> tuple[Tensor, Tensor]:
        """Which wide column each of ``passes * dimension`` places takes, and its sign (0: none)."""
        seed, dimension = self.projection.seed, self.dimension
        passes = -(-self.width // dimension)
        order = torch.randperm(passes * dimension, generator=_generator(seed, "columns"))
        signs = _signs((passes * dimension,), seed, "signs")
        signs[order >= self.width] = 0
        return order.clamp(max=self.width - 1).to(self.device), signs.to(self.device, self.dtype)

    def collect(self, units: int) -> Tensor:
        """Zeros to add to, [units, width]."""
        return torch.zeros(units, self.width, device=self.device, dtype=self.dtype)

    def fold(self, wide: Tensor) -> Tensor:
        """[U, width] as [U, dimension]."""
        if self.projection.dimension is None:
            return wide
        spread = wide.index_select(1, self._picks).mul_(self._signs)
        return spread.view(len(wide), -1, self.dimension).sum(1)

    def add(self, wide: Tensor, name: str, factor: Factor, pieces: Tensor | None = None) -> None:
        """Add a parameter's gradient of each row of the batch, or of each piece, to ``wide``.

        pieces: int64 [P, L], token numbers in the flattened batch, its size standing for none.
        """
        block = self.blocks.get(name)
        if block is None:
            return
        into = wide[:, block.place]
        if isinstance(factor, Plain):
            into += _grouped(factor.value, pieces).sum(1)
            return
        left = _side(factor.left, block.left)
        right = factor.right if block.right is None else factor.right @ block.right
        if left is None:
            small = _sum_rows(_grouped(factor.left, pieces), _grouped(right, pieces), block.shape)
        else:
            small = torch.bmm(_grouped(left, pieces).transpose(1, 2), _grouped(right, pieces))
        into += small.flatten(1)

    def add_scaled(self, wide: Tensor, name: str, factor: Factor, scale: Tensor) -> None:
        """As ``add``, of gradients that are first multiplied by ``scale`` (of the parameter's
        shape), element by element; they are formed, a few rows at a time."""
        block = self.blocks.get(name)
        if block is None:
            return
        into = wide[:, block.place]
        if isinstance(factor, Plain):
            into += factor.value.sum(1) * scale
            return
        rows = max(1, _DENSE // scale.numel())
        for first in range(0, len(wide), rows):
            part = slice(first, first + rows)
            dense = _full_gradient(Outer(factor.left[part], factor.right[part]), block.shape)
            into[part] += _both_sides(block, dense.mul_(scale)).flatten(1)

    def of(self, gradient: Direction) -> Tensor:
        """The sketch [dimension] of a gradient that is there in full."""
        wide = self.collect(1)
        for name, block in self.blocks.items():
            dense = gradient[name].to(self.device, self.dtype)[None]
            small = dense if dense.ndim == 2 else _both_sides(block, dense).flatten(1)
            wide[:, block.place] += small
        return self.fold(wide)[0]


def _both_sides(block: _Block, dense: Tensor) -> Tensor:
    if block.right is not None:
        dense = dense @ block.right
    return dense if block.left is None else block.left.T @ dense


def _full_gradient(factor: Outer, shape: tuple[int, ...]) -> Tensor:
    """The gradient of each row's tokens, [B, *shape]."""
    if factor.by_row:
        return _sum_rows(factor.left, factor.right, shape)
    return torch.bmm(factor.left.transpose(1, 2), factor.right)


def _side(tokens: Tensor, side: Tensor | None) -> Tensor | None:
    """Tokens [B, T, size] or row numbers [B, T] seen through a projection; None: rows, bare."""
    if tokens.is_floating_point():
        return tokens if side is None else tokens @ side
    return None if side is None else side[tokens]


def _sum_rows(numbers: Tensor, right: Tensor, shape: tuple[int, ...]) -> Tensor:
    """sum_t e(number_t) right_t^T of each unit: [U, L], [U, L, cols] to [U, rows, cols]."""
    units, rows = len(numbers), shape[0]
    # The number of a piece's empty places is ``rows``: they hold zeros, in a row that is cut off.
    total = right.new_zeros(units * (rows + 1), right.shape[-1])
    base = torch.arange(units, device=right.device)[:, None] * (rows + 1)
    total.index_add_(0, (base + numbers.clamp(max=rows)).flatten(), right.flatten(0, 1))
    return total.view(units, rows + 1, -1)[:, :rows]


def _grouped(tokens: Tensor, pieces: Tensor | None) -> Tensor:
    """Tokens [B, T, ..] as [P, L, ..] of pieces, empty places zero (a huge row number)."""
    if pieces is None:
        return tokens
    flat = tokens.flatten(0, 1)
    filler = torch.zeros if tokens.is_floating_point() else _no_row
    empty = filler((1, *flat.shape[1:]), dtype=flat.dtype, device=flat.device)
    return torch.cat([flat, empty])[pieces]


def _no_row(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full(shape, torch.iinfo(dtype).max, dtype=dtype, device=device)


def _generator(seed: int, *words: str) -> torch.Generator:
    digest = hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _signs(shape: tuple[int, ...], seed: int, *words: str) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=_generator(seed, *words), dtype=torch.int8)
    return (2 * bits - 1).float()
