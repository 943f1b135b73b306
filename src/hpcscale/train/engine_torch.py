"""The plain torch engine: one process or DistributedDataParallel. DeepSpeed is held to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hpcscale.train.adam_moments import Moments, moments_of
from hpcscale.train.engine import DTYPES, EngineSetup, adamw, clip_gradients, describe
from hpcscale.train.state import (
    LossScale,
    Shard,
    set_updates,
    shares,
    updates_of,
    whole_shards,
)
from hpcscale.train.state_reader import StateReader


class TorchEngine:
    """Float32 weights, gradients and optimizer state; the forward pass is under autocast outside
    fp32."""

    def __init__(self, setup: EngineSetup) -> None:
        self.ranks, self.precision = setup.ranks, setup.precision
        self.stage, self.compiled = 0, setup.config.compile
        self.resolved = describe("torch", setup)
        self.clip = setup.config.clip
        self.module = setup.model.to(setup.ranks.device).train()
        self.optimizer = adamw(self.module, setup.config)
        self.scaler = torch.amp.GradScaler(enabled=setup.precision == "fp16")
        self.model: nn.Module = self.module
        if setup.ranks.world_size > 1:
            self.model = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
        if self.compiled:
            self.model.compile()

    @property
    def loss_factor(self) -> float:
        # DDP averages over ranks, the loop wants the sum.
        return self.ranks.world_size * self.scaler.get_scale()

    def forward_pass(self, last: bool) -> AbstractContextManager[object]:
        if isinstance(self.model, DistributedDataParallel):
            # Ranks meet in the last pass of a step; DDP decides that in its forward.
            self.model.require_backward_grad_sync = last
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, DTYPES[self.precision])

    def backward(self, loss: Tensor) -> None:
        if isinstance(self.model, DistributedDataParallel):
            loss = loss * self.ranks.world_size
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.module, self.clip)
        # An enabled scaler skips such steps itself.
        if self.scaler.is_enabled() or bool(norm.isfinite()):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def shards(self) -> Iterator[Shard]:
        return shares(self._held(), self.ranks)

    def _held(self) -> Iterator[Shard]:
        names = {id(p): name for name, p in self.module.named_parameters()}
        return whole_shards(self.optimizer, names)

    def updates(self) -> int:
        return updates_of(self.optimizer)

    def loss_scale(self) -> LossScale:
        if not self.scaler.is_enabled():
            return LossScale()
        state = self.scaler.state_dict()
        return LossScale(state["scale"], state["_growth_tracker"])

    def load(self, saved: StateReader, updates: int, scale: LossScale) -> None:
        self._settle_buckets()
        saved.fill(self._held())
        set_updates(self.optimizer, updates)
        if self.scaler.is_enabled():
            tracker = scale.clean % self.scaler.get_growth_interval()
            values = {"scale": scale.scale, "_growth_tracker": tracker}
            self.scaler.load_state_dict(self.scaler.state_dict() | values)

    def _settle_buckets(self) -> None:
        """Make DDP reorder its buckets now, which it does after the first pass.

        Three ranks or more sum an element in an order that depends on its place in a bucket. A
        resumed run must not sum its first step in the order of a new run.
        """
        if isinstance(self.model, DistributedDataParallel):
            ids = torch.zeros(1, 2, dtype=torch.long, device=self.ranks.device)
            for _ in range(2):  # the next forward pass is where they are reordered
                forward: Any = self.model.forward  # the call may be compiled for other shapes
                forward(input_ids=ids, use_cache=False).logits.sum().backward()
            self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor] | None:
        return None

    def moments(self) -> Moments:
        return moments_of(self.updates(), self.shards())
