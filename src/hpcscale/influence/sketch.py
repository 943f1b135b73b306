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
    """How one parameter's gradient enters the sketch; ``left`` and ``right`` None: unprojected."""

    shape: tuple[int, ...]
    left: Tensor | None
    right: Tensor | None
    offset: int
    picks: Tensor | None
    signs: Tensor | None

    @property
    def sides(self) -> tuple[int, ...]:
        widths = zip(self.shape, (self.left, self.right), strict=False)
        return tuple(size if side is None else side.shape[1] for size, side in widths)


class Sketch:
    """The projection for one model: features of units, [U, dimension], from token factors."""

    def __init__(
        self,
        model: nn.Module,
        projection: Projection,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.projection, self.device, self.dtype = projection, device, dtype
        self.blocks: dict[str, _Block] = {}
        offset = 0
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            block = self._block(name, tuple(parameter.shape), offset)
            self.blocks[name] = block
            size = 1
            for side in block.sides:
                size *= side
            offset += size
        self.dimension = projection.dimension or offset

    def _block(self, name: str, shape: tuple[int, ...], offset: int) -> _Block:
        seed, rank = self.projection.seed, self.projection.rank
        sides = [
            _signs((size, rank), seed, name, str(axis)).to(self.device, self.dtype) / rank**0.5
            if rank is not None and len(shape) == 2 and size > rank
            else None
            for axis, size in enumerate(shape)
        ]
        left, right = (*sides, None)[:2]
        bare = _Block(shape, left, right, offset, None, None)
        columns = self.projection.dimension
        if columns is None:
            return bare
        size = torch.Size(bare.sides).numel()
        passes = -(-size // columns)
        generator = _generator(seed, name, "columns")
        order = [torch.randperm(columns, generator=generator) + p * columns for p in range(passes)]
        signs = _signs((size,), seed, name, "signs").to(self.device, self.dtype)
        return _Block(shape, left, right, offset, torch.cat(order).to(self.device), signs)

    def features(self, units: int) -> Tensor:
        """Zeros to add to, [units, dimension]."""
        return torch.zeros(units, self.dimension, device=self.device, dtype=self.dtype)

    def add(self, into: Tensor, name: str, factor: Factor, pieces: Tensor | None = None) -> None:
        """Add a parameter's gradient of each row of the batch, or of each piece, to ``into``.

        pieces: int64 [P, L], token numbers in the flattened batch, its size standing for none.
        """
        block = self.blocks.get(name)
        if block is None:
            return
        if isinstance(factor, Plain):
            self._spread(into, block, _grouped(factor.value, pieces).sum(1))
            return
        left = _side(factor.left, block.left, block.shape[0])
        right = factor.right if block.right is None else factor.right @ block.right
        if left is None:
            small = _sum_rows(_grouped(factor.left, pieces), _grouped(right, pieces), block.shape)
        else:
            small = torch.bmm(_grouped(left, pieces).transpose(1, 2), _grouped(right, pieces))
        self._spread(into, block, small.flatten(1))

    def add_scaled(self, into: Tensor, name: str, factor: Factor, scale: Tensor) -> None:
        """As ``add``, of gradients that are first multiplied by ``scale`` (of the parameter's
        shape), element by element; they are formed, a few rows at a time."""
        block = self.blocks.get(name)
        if block is None:
            return
        if isinstance(factor, Plain):
            self._spread(into, block, factor.value.sum(1) * scale)
            return
        rows = max(1, _DENSE // scale.numel())
        for first in range(0, len(into), rows):
            part = slice(first, first + rows)
            dense = full_gradient(Outer(factor.left[part], factor.right[part]), block.shape)
            self._spread(into[part], block, self._both_sides(block, dense * scale).flatten(1))

    def of(self, gradient: Direction) -> Tensor:
        """The sketch [dimension] of a gradient that is there in full."""
        total = self.features(1)
        for name, block in self.blocks.items():
            dense = gradient[name].to(self.device, self.dtype)[None]
            small = dense if dense.ndim == 2 else self._both_sides(block, dense).flatten(1)
            self._spread(total, block, small)
        return total[0]

    def _both_sides(self, block: _Block, dense: Tensor) -> Tensor:
        if block.right is not None:
            dense = dense @ block.right
        return dense if block.left is None else block.left.T @ dense

    def _spread(self, into: Tensor, block: _Block, small: Tensor) -> None:
        """Sum [U, size] into the columns."""
        if block.picks is None or block.signs is None:
            into[:, block.offset : block.offset + small.shape[1]] += small
            return
        signed = nn.functional.pad(small * block.signs, (0, len(block.picks) - small.shape[1]))
        into += signed[:, block.picks].unflatten(1, (-1, self.dimension)).sum(1)


def full_gradient(factor: Outer, shape: tuple[int, ...]) -> Tensor:
    """The gradient of each row's tokens, [B, *shape]."""
    if factor.by_row:
        return _sum_rows(factor.left, factor.right, shape)
    return torch.bmm(factor.left.transpose(1, 2), factor.right)


def _side(tokens: Tensor, side: Tensor | None, size: int) -> Tensor | None:
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
