"""Training state by parameter name: what Adam needs to continue, wherever an engine keeps it.

An engine presents what its rank holds as *shards*: stretches of flattened parameters. Names and
offsets are those of the plain module, so that they mean the same to every engine, ZeRO stage and
number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpcscale.train.distributed import Ranks

#: A float32 weight and Adam's two moments of it.
KINDS = ("weight", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Shard:
    """Elements of the flattened parameter ``name`` from ``start`` on.

    The tensors are flat float32 *views* of the engine's own, all of one length: writing to them
    changes the training state.
    """

    name: str
    start: int
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    def part(self, begin: int, end: int) -> Shard:
        """Elements ``begin`` to ``end`` - 1 of this shard."""
        tensors = (getattr(self, kind)[begin:end] for kind in KINDS)
        return Shard(self.name, self.start + begin, *tensors)


@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling of fp16. ``clean``: steps without an overflow since the last one."""

    scale: float = 1.0
    clean: int = 0
    hysteresis: int = 1


def shares(shards: Iterable[Shard], ranks: Ranks) -> Iterator[Shard]:
    """This rank's part of shards that every rank holds in full; all parts are disjoint."""
    for shard in shards:
        size, world = shard.weight.numel(), ranks.world_size
        begin, end = (size * k // world for k in (ranks.rank, ranks.rank + 1))
        if end > begin:
            yield shard.part(begin, end)


def whole_shards(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Iterator[Shard]:
    """The shards of an optimizer over whole parameters. names: of the parameters, by id."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = adam_state(optimizer, parameter)
            views = (t.detach().view(-1) for t in (parameter, state[KINDS[1]], state[KINDS[2]]))
            yield Shard(names[id(parameter)], 0, *views)


def adam_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The state of ``parameter``, created as Adam would in its first step, if it has none yet."""
    state: dict[str, Any] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for kind in KINDS[1:]:
            state[kind] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def updates_of(optimizer: torch.optim.Optimizer) -> int:
    """The number of updates that the optimizer made: t of its bias correction."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def set_updates(optimizer: torch.optim.Optimizer, updates: int) -> None:
    for state in optimizer.state.values():
        state["step"].fill_(updates)
