"""The plain torch engine: one process, or DistributedDataParallel. The reference for the other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hpcscale.errors import CheckpointError
from hpcscale.train.engine import DTYPES, EngineSetup, adamw, describe
from hpcscale.train.moments import Moments, own_moments

_STATE = "state.pt"


class TorchEngine:
    """Float32 weights, gradients and optimizer state; autocast forward where asked for."""

    def __init__(self, setup: EngineSetup) -> None:
        self.ranks, self.precision = setup.ranks, setup.precision
        self.stage, self.compiled = 0, setup.config.compile
        self.resolved = describe("torch", setup)
        self.clip = setup.config.clip or float("inf")
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
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        if self.ranks.rank == 0:
            state = {
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        path = folder / _STATE
        if not path.exists():
            raise CheckpointError(
                f"{folder} was not written by the torch engine; go on with the engine that wrote "
                "it, or delete the checkpoints to start over"
            )
        state = torch.load(path, map_location=self.ranks.device, weights_only=True)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def weights(self) -> dict[str, Tensor] | None:
        return None

    def moments(self) -> Moments:
        names = {id(p): name for name, p in self.module.named_parameters()}
        return own_moments(self.optimizer, names, self.ranks)
