"""The DeepSpeed engine: ZeRO 0 to 3, NCCL on GPUs, gloo on CPUs. The only importer of deepspeed."""

from __future__ import annotations

import copy
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn

from hpcscale.train.adam_moments import Moments, moments_of
from hpcscale.train.engine import EngineSetup, adamw, clip_gradients, describe, model_size
from hpcscale.train.state import (
    LossScale,
    Shard,
    adam_state,
    set_updates,
    shares,
    updates_of,
    whole_shards,
)
from hpcscale.train.state_reader import StateReader
from hpcscale.train.zero import deepspeed_config


class DeepSpeedEngine:
    """ZeRO over the ranks of the process group."""

    def __init__(self, setup: EngineSetup) -> None:
        self.ranks, self.config = setup.ranks, setup.config
        self.precision = setup.precision
        assert setup.config.zero != "auto", "make_engine resolves it"
        self.stage: int = setup.config.zero
        self.compiled = setup.config.compile
        # At stage 0, no ZeRO optimizer wraps torch's, and none reports the norm.
        self.own_clipping = self.stage == 0
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # DeepSpeed requires this variable of a launcher even for a single process.
        os.environ.setdefault("LOCAL_RANK", str(setup.ranks.local_rank))
        setup.ranks.open_group()
        if setup.ranks.device.type == "cpu":
            # The shared-memory op serves inference alone and costs a minute of g++ at first use.
            # By name: deepspeed.comm has an attribute `torch`, which is torch, not this module.
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
            norm = clip_gradients(self.engine.module, self.config.clip)
            if not norm.isfinite():  # no gradient, no update: as ZeRO's optimizers skip a step
                self.engine.module.zero_grad(set_to_none=True)
        self.engine.step()
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        return float(norm)

    def shards(self) -> Iterator[Shard]:
        held = self._held()
        return shares(held, self.ranks) if self.own_clipping else held

    def _held(self) -> Iterator[Shard]:
        if self.own_clipping:
            return whole_shards(self._adam, self.names)
        return self._parts() if self.stage == 3 else self._stretches()

    @property
    def _adam(self) -> Any:
        """torch's optimizer, which ZeRO's wraps, if there is one."""
        zero = self.engine.optimizer
        return zero if self.own_clipping else zero.optimizer

    def updates(self) -> int:
        return updates_of(self._adam)

    def loss_scale(self) -> LossScale:
        if self.precision != "fp16":
            return LossScale()
        scaler = self.engine.optimizer.loss_scaler
        clean = scaler.cur_iter - scaler.last_overflow_iter - 1
        return LossScale(float(scaler.cur_scale), clean, scaler.cur_hysteresis)

    def load(self, saved: StateReader, updates: int, scale: LossScale) -> None:
        zero = self.engine.optimizer
        if self.stage == 3:
            zero.checkpoint_event_prologue()
        saved.fill(self._held())
        set_updates(self._adam, updates)
        if self.stage == 3:
            for flat, exact in zip(
                zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True
            ):
                flat.data.copy_(exact.data)
            zero.checkpoint_event_epilogue()
        elif self.stage:
            # The copy that the forward pass computes with, in its own precision.
            for parameter in self.engine.module.parameters():
                whole = torch.empty(parameter.numel())
                saved.read_into("weight", self.names[id(parameter)], 0, whole)
                parameter.data.copy_(whole.view_as(parameter))
        if self.precision == "fp16":
            scaler = zero.loss_scaler
            scaler.cur_scale, scaler.cur_hysteresis = scale.scale, scale.hysteresis
            scaler.cur_iter, scaler.last_overflow_iter = scale.clean, -1

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
        return moments_of(self.updates(), self.shards())

    def _stretches(self) -> Iterator[Shard]:
        """Stages 1 and 2: a rank holds a stretch of the group's concatenated parameters, and each
        parameter knows its place in that stretch."""
        for parameter in self.engine.module.parameters():
            place = getattr(parameter, "_hp_mapping", None)
            if place is None:
                continue
            (flat,) = self._adam.param_groups[place.param_group_index]["params"]
            here, start = place.hp_fragment_address, int(place.lp_fragment_address.start)
            yield self._shard(parameter, flat, start, here.start, here.numel)

    def _parts(self) -> Iterator[Shard]:
        """Stage 3: every parameter is cut into as many equal parts as there are ranks; the last
        part is padded."""
        zero = self.engine.optimizer
        for parameter in self.engine.module.parameters():
            if not parameter.requires_grad:
                continue
            group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
            start = self.ranks.rank * size
            real = min(size, parameter.ds_numel - start)
            if real > 0:
                flat = zero.fp32_partitioned_groups_flat[group]
                yield self._shard(parameter, flat, start, offset, real)

    def _shard(self, parameter: Tensor, flat: Tensor, start: int, at: int, size: int) -> Shard:
        """``size`` elements of ``parameter`` from ``start``, which ``flat`` holds from ``at``."""
        state = adam_state(self._adam, flat)
        whole = (flat.detach(), state["exp_avg"], state["exp_avg_sq"])
        return Shard(self.names[id(parameter)], start, *(t.narrow(0, at, size) for t in whole))
