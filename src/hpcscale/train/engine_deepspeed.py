"""The DeepSpeed engine: ZeRO 0 to 3, NCCL on GPUs, gloo on CPUs. The only importer of deepspeed."""

from __future__ import annotations

import copy
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_optimizer_state
from torch import Tensor, nn

from hpcscale.errors import CheckpointError
from hpcscale.train.engine import EngineSetup, adamw, describe, model_size
from hpcscale.train.moments import Fragment, Moments, on_cpu, own_moments, updates_of
from hpcscale.train.zero import deepspeed_config

_TAG = "state"


class DeepSpeedEngine:
    """ZeRO over the ranks of the process group."""

    def __init__(self, setup: EngineSetup) -> None:
        self.ranks, self.config = setup.ranks, setup.config
        self.precision = setup.precision
        assert setup.config.zero != "auto", "make_engine resolves it"
        self.stage: int = setup.config.zero
        self.compiled = setup.config.compile
        # Stage 0 has no wrapped optimizer that would report the norm it clips by.
        self.own_clipping = self.stage == 0
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # DeepSpeed insists on the variables of a launcher, also for a process that needs none.
        os.environ.setdefault("LOCAL_RANK", str(setup.ranks.local_rank))
        setup.ranks.open_group()
        if setup.ranks.device.type == "cpu":
            # The shared-memory op serves inference alone and costs a minute of g++ at first use.
            # By name, since an attribute of the package hides this module behind torch itself.
            backend: Any = importlib.import_module("deepspeed.comm.torch")
            backend.build_shm_op = lambda: None
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        model = setup.model.to(setup.ranks.device).train()
        self.names = {id(p): name for name, p in model.named_parameters()}
        values = deepspeed_config(
            setup.config,
            setup.precision,
            setup.ranks.world_size,
            int(model_size(model).parameters),
        )
        self.resolved = describe(
            "deepspeed", setup, zero=self.stage, deepspeed=deepspeed.__version__, config=values
        )
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adamw(model, setup.config),
            config=copy.deepcopy(values),
            dist_init_required=False,
        )
        self.model: nn.Module = self.engine
        self.module: nn.Module = model
        if self.compiled:
            self.engine.compile()

    @property
    def loss_factor(self) -> float:
        # DeepSpeed averages over ranks, the loop wants the sum.
        scale = self.engine.optimizer.loss_scale if self.precision == "fp16" else 1.0
        return float(self.ranks.world_size * scale)

    def forward_pass(self, last: bool) -> AbstractContextManager[object]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * self.ranks.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        norm: Any = None
        if self.own_clipping:
            limit = self.config.clip or float("inf")
            norm = nn.utils.clip_grad_norm_(self.engine.module.parameters(), limit)
        self.engine.step()
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        return float(norm)

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        if not (folder / _TAG).is_dir():
            raise CheckpointError(
                f"{folder} was not written by the deepspeed engine; go on with the engine that "
                "wrote it, or delete the checkpoints to start over"
            )
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG)
        except Exception as error:
            raise CheckpointError(
                f"{folder} cannot be loaded on {self.ranks.world_size} ranks with ZeRO stage "
                f"{self.stage} ({type(error).__name__}: {error}); go on with the ranks and stage "
                "that wrote it, or delete the checkpoints to start over"
            ) from error
        if path is None:
            raise CheckpointError(f"{folder} holds no DeepSpeed state for this rank")

    def weights(self) -> dict[str, Tensor] | None:
        if self.stage < 3 and self.precision == "fp32":
            return None
        full: dict[str, Tensor] = {}
        for parameter in self.engine.module.parameters():
            value = safe_get_full_fp32_param(parameter)
            if self.ranks.rank == 0:
                full[self.names[id(parameter)]] = value.detach().float().cpu().clone()
        return full if self.ranks.rank == 0 else None

    def moments(self) -> Moments:
        if self.own_clipping:
            return own_moments(self.engine.optimizer, self.names, self.ranks)
        inner = self.engine.optimizer.optimizer
        fragments = self._shards() if self.stage == 3 else self._flat_shards(inner)
        return Moments(updates_of(inner), fragments)

    def _flat_shards(self, inner: Any) -> Iterator[Fragment]:
        """Stages 1 and 2, and bf16 at stage 0: a rank holds a stretch of the group's parameters,
        one after the other, and each parameter knows its place in that stretch."""
        for parameter in self.engine.module.parameters():
            place = getattr(parameter, "_hp_mapping", None)
            if place is None:
                continue
            (flat,) = inner.param_groups[place.param_group_index]["params"]
            here = place.hp_fragment_address
            values = inner.state[flat]["exp_avg_sq"].narrow(0, here.start, here.numel)
            start = int(place.lp_fragment_address.start)
            yield Fragment(self.names[id(parameter)], start, on_cpu(values))

    def _shards(self) -> Iterator[Fragment]:
        """Stage 3: every parameter is cut into as many equal parts as there are ranks, the last
        one filled up."""
        for parameter in self.engine.module.parameters():
            if not parameter.requires_grad:
                continue
            values = safe_get_local_optimizer_state(parameter, "exp_avg_sq")
            start = self.ranks.rank * values.numel()
            real = min(values.numel(), parameter.ds_numel - start)
            if real > 0:
                yield Fragment(self.names[id(parameter)], start, on_cpu(values[:real]))
