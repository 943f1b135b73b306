"""Adam's second moments where they lie: fragments of parameters, a rank's own and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcscale.train.distributed import Ranks


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


def own_moments(optimizer: torch.optim.Optimizer, names: dict[int, str], ranks: Ranks) -> Moments:
    """Of an optimizer that holds every moment on every rank: each tells of its part of all.

    names: those of the parameters, by id.
    """

    def fragments() -> Iterator[Fragment]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                size, world = parameter.numel(), ranks.world_size
                begin, end = (size * k // world for k in (ranks.rank, ranks.rank + 1))
                state = optimizer.state.get(parameter, {})
                # A parameter that no gradient ever came to has no state yet.
                whole = state.get("exp_avg_sq", torch.zeros_like(parameter)).flatten()
                if end > begin:
                    yield Fragment(names[id(parameter)], begin, on_cpu(whole[begin:end]))

    return Moments(updates_of(optimizer), fragments())


def updates_of(optimizer: torch.optim.Optimizer) -> int:
    """The updates that the optimizer made, its bias correction's t."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def on_cpu(values: Tensor) -> Tensor:
    """A flat float32 copy that later updates do not reach."""
    return values.detach().to("cpu", torch.float32, copy=True).flatten()
