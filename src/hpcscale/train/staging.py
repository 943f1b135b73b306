"""The copy of the training state from which a checkpoint is written, and the thread for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from hpcscale.train.engine import Engine
from hpcscale.train.state import KINDS
from hpcscale.train.state_writer import key_of

#: States of torch's random number generators, of the CPU and of the rank's GPU.
RNG = ("rng-cpu", "rng-cuda")
#: Added to the thread's nice value: the training loop goes first where processors are scarce.
_NICE = 10


class Staging:
    """Host memory for a rank's share of the state: 12 bytes a parameter, kept between saves."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, engine: Engine, device: torch.device) -> dict[str, Tensor]:
        """A copy of the engine's shards and of the RNG states, complete when this returns. The next
        call overwrites it."""
        tensors = {}
        for shard in engine.shards():
            for kind in KINDS:
                key = key_of(kind, shard.name, shard.start)
                tensors[key] = self._copied(key, getattr(shard, kind))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return tensors | _rng_states(device)

    def _copied(self, key: str, values: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None:
            pinned = values.device.type == "cuda"
            buffer = torch.empty(values.shape, dtype=torch.float32, pin_memory=pinned)
            self._buffers[key] = buffer
        return buffer.copy_(values, non_blocking=True)


def shapes(engine: Engine) -> dict[str, list[int]]:
    """The shapes of the trained parameters by name; ZeRO 3 keeps them in another attribute."""
    return {
        name: list(getattr(p, "ds_shape", p.shape))
        for name, p in engine.module.named_parameters()
        if p.requires_grad
    }


def _rng_states(device: torch.device) -> dict[str, Tensor]:
    states = {RNG[0]: torch.get_rng_state()}
    if device.type == "cuda":
        states[RNG[1]] = torch.cuda.get_rng_state(device)
    return states


def restore_rng(states: Sequence[Tensor | None], device: torch.device) -> None:
    """Set the generators to ``states``, in the order of ``RNG``."""
    cpu, cuda = states
    if cpu is not None:
        torch.set_rng_state(cpu)
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda, device)


def background() -> ThreadPoolExecutor:
    """One thread for files and checksums, at a lower priority than the training loop."""

    def yield_to_the_loop() -> None:
        if hasattr(os, "setpriority"):
            # Linux accepts the id of a thread here.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)

    return ThreadPoolExecutor(1, "checkpoint", initializer=yield_to_the_loop)
