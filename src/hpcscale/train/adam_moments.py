"""Adam's second moments as each rank holds them: fragments of parameters, never gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcscale.train.state import Shard


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements of the flattened parameter ``name`` from ``start`` on, flat float32 on the CPU.

    ``name``: as in ``named_parameters`` of the plain module.
    """

    name: str
    start: int
    values: Tensor


@dataclass(frozen=True)
class Moments:
    """One rank's fragments of Adam's second moments v, after ``updates`` t.

    v is as the optimizer keeps it; corrected for bias, it is v / (1 - beta2^t).
    """

    updates: int
    fragments: Iterator[Fragment]


def moments_of(updates: int, shards: Iterable[Shard]) -> Moments:
    """Copies of the second moments in ``shards``; later updates do not change them."""
    fragments = (Fragment(s.name, s.start, _on_cpu(s.exp_avg_sq)) for s in shards)
    return Moments(updates, fragments)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float32, copy=True).flatten()
