"""Hashing columns into fewer, with random signs: what sides and whole sketches are made small by.

The count sketch of Charikar, Chen and Farach-Colton (2002), in stretches instead of single columns:
a stretch of ``buckets`` columns lies on a ring of as many at a random turn. Two columns of one
stretch never meet, two of different stretches with probability 1 / buckets, which is all that the
sketch's mean and variance depend on; and memory is read and written in order.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class CountSketch:
    """``size`` columns on a ring of ``buckets``: E<S x, S y> = <x, y>."""

    def __init__(
        self,
        size: int,
        buckets: int,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size, self.buckets = size, buckets
        stretches = -(-size // buckets)
        turns = torch.randint(0, buckets, (stretches,), generator=generator)
        signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8)
        self.turns: list[int] = turns.tolist()
        self.signs = (2 * signs - 1).to(device, dtype)

    def open(self, like: Tensor, *shape: int) -> Tensor:
        """Zeros to add to, [*shape, 2 buckets]: twice around, so that no stretch is cut."""
        return like.new_zeros(*shape, 2 * self.buckets)

    def add(self, into: Tensor, values: Tensor, signs: Tensor | None = None) -> None:
        """Add values [.., size] to ``into`` [.., 2 buckets]; ``signs`` replace its own."""
        signs = self.signs if signs is None else signs
        for stretch, turn in enumerate(self.turns):
            part = slice(stretch * self.buckets, min((stretch + 1) * self.buckets, self.size))
            place = slice(turn, turn + part.stop - part.start)
            into[..., place].addcmul_(values[..., part], signs[part])

    def close(self, into: Tensor) -> Tensor:
        """[.., 2 buckets] as [.., buckets]."""
        return into[..., : self.buckets] + into[..., self.buckets :]

    def hash(self, values: Tensor) -> Tensor:
        """[.., size] as [.., buckets]."""
        into = self.open(values, *values.shape[:-1])
        self.add(into, values)
        return self.close(into)

    def row_places(self) -> tuple[Tensor, Tensor]:
        """Bucket and sign of each column: int64 [size], [size]."""
        columns = torch.arange(self.size)
        turn = torch.tensor(self.turns)[columns // self.buckets]
        return ((columns + turn) % self.buckets).to(self.signs.device), self.signs


def generator(seed: int, *words: str) -> torch.Generator:
    """The same numbers on every machine, from the seed and the words only."""
    digest = hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
