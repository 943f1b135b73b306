"""The documents of packed rows: which tokens of a batch are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hpcscale.data.packing import NO_SEGMENT
from hpcscale.types import Ints

Unit = Literal["document", "sequence"]


@dataclass(frozen=True)
class Spans:
    """Runs of tokens in a batch of rows, each within one row; all int64 [P].

    ``begins``: in the flattened batch, ``sizes``: tokens, ``row``: of the batch, ``owner``: of the
    stream's documents, the first where there are several.
    """

    begins: Ints
    sizes: Ints
    row: Ints
    owner: Ints

    def __len__(self) -> int:
        return len(self.row)


def spans_of(segments: Ints, unit: Unit) -> Spans:
    """The pieces of a batch, ``segments`` int64 [B, T]: the document of each target.

    A piece is what a row holds of one document, or with ``sequence`` all that it holds.
    """
    length = segments.shape[1]
    first = np.zeros(segments.shape, dtype=bool)
    first[:, 0] = True
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    if unit == "sequence":
        # What is no token starts a piece of its own, which is none.
        first[:, 1:] &= segments[:, 1:] == NO_SEGMENT
    begins = np.flatnonzero(first)
    ends = np.append(begins[1:], segments.size)
    real = segments.reshape(-1)[begins] != NO_SEGMENT
    begins, ends = begins[real], ends[real]
    return Spans(begins, ends - begins, begins // length, segments.reshape(-1)[begins])


class TokenGroups:
    """Sums over the tokens of pieces, and the tokens of each side by side."""

    def __init__(self, pieces: Spans, tokens: int, device: torch.device) -> None:
        """tokens: of the batch, pads with them."""
        self.count, self.longest = len(pieces), int(pieces.sizes.max())
        ramp = np.arange(self.longest)
        real = ramp < pieces.sizes[:, None]
        places = np.where(real, pieces.begins[:, None] + ramp, 0)
        # A token of no piece belongs to one more, which nobody looks at.
        owner = np.full(tokens, self.count)
        owner[places[real]] = np.repeat(np.arange(self.count), pieces.sizes)
        self._owner = torch.from_numpy(owner).to(device)
        self._places = torch.from_numpy(places.reshape(-1)).to(device)
        self._real = torch.from_numpy(real.reshape(-1, 1)).to(device, torch.float32)

    def sums(self, values: Tensor) -> Tensor:
        """[B, T, size] summed over each piece's tokens, [P, size]."""
        total = values.new_zeros(self.count + 1, values.shape[-1])
        return total.index_add_(0, self._owner, values.flatten(0, 1))[: self.count]

    def spread(self, tokens: Tensor) -> Tensor:
        """[B, T, ..] as [P, L, ..], L the tokens of the longest; what lies in the places that a
        shorter one leaves is any token's."""
        found = tokens.flatten(0, 1).index_select(0, self._places)
        return found.view(self.count, self.longest, *tokens.shape[2:])

    def spread_or_zero(self, tokens: Tensor) -> Tensor:
        """[B, T, size] as [P, L, size], empty places 0."""
        found = tokens.flatten(0, 1).index_select(0, self._places).mul_(self._real)
        return found.view(self.count, self.longest, -1)
