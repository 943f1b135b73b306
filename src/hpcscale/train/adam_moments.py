"""Adam's second moments where they lie: fragments of parameters, a rank's own and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcscale.train.state import Shard


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements ``start`` and on of the flattened parameter ``name``, flat float32 on the CPU.

    ``name`` is that of the plain module's ``named_parameters``.
    """

    name: str
    start: int
    values: Tensor


@dataclass(frozen=True)
class Moments:
    """One rank's fragments of Adam's second moments v, and the updates t behind them.

    v is as the optimizer keeps it; its bias correction is v / (1 - beta2^t).
    """

    updates: int
    fragments: Iterator[Fragment]


def moments_of(updates: int, shards: Iterable[Shard]) -> Moments:
    """Copies of the second moments in ``shards``, which later updates do not reach."""
    fragments = (Fragment(s.name, s.start, _on_cpu(s.exp_avg_sq)) for s in shards)
    return Moments(updates, fragments)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float32, copy=True).flatten()
