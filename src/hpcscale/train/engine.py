"""The interface of an engine to the training loop, and what all engines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpcscale.config.train import TrainConfig
from hpcscale.train.adam_moments import Moments
from hpcscale.train.distributed import Ranks
from hpcscale.train.memory import ModelSize
from hpcscale.train.state import LossScale, Shard
from hpcscale.train.state_reader import StateReader

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """A model in training: forward and backward passes, optimizer steps, and their state.

    ``model`` is called for the forward pass. The loss given to ``backward`` is this rank's share
    of the loss of the whole global batch; its gradients are *summed* over ranks and passes.
    """

    model: nn.Module
    #: The plain module under ``model``.
    module: nn.Module
    #: The ZeRO stage; 0: every rank holds everything.
    stage: int
    precision: str
    compiled: bool
    #: Every setting as it runs, with versions and, where it is used, DeepSpeed's configuration.
    resolved: dict[str, Any]

    @property
    def loss_factor(self) -> float:
        """What ``backward`` multiplies a loss by before it computes gradients."""

    def forward_pass(self, last: bool) -> AbstractContextManager[object]:
        """The context of one forward pass. ``last``: it is the last one before ``step``."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of that pass."""

    def step(self, lr: float) -> float:
        """Clip, update, clear; the global norm of the gradients before clipping.

        Where the norm is not finite, nothing is updated on any rank.
        """

    def shards(self) -> Iterator[Shard]:
        """This rank's share of the training state, as views; not collective. The shares of all
        ranks hold each element of each trainable parameter exactly once."""

    def updates(self) -> int:
        """The number of updates that Adam made: t of its bias correction."""

    def loss_scale(self) -> LossScale:
        """The state of dynamic loss scaling; outside fp16, a constant scale of 1."""

    def load(self, saved: StateReader, updates: int, scale: LossScale) -> None:
        """Replace the state by ``saved``, written by any engine, stage and number of ranks.

        Called by all ranks. Raises CheckpointError where it is the state of another model.
        """

    def weights(self) -> dict[str, Tensor] | None:
        """The float32 weights on the CPU, on rank 0; called by all ranks. None where the module
        holds them already."""

    def moments(self) -> Moments:
        """Copies of Adam's second moments in ``shards``."""


@dataclass(frozen=True)
class EngineSetup:
    """What an engine is made from. ``sequence_length``: for the forecast of `zero: auto`."""

    model: nn.Module
    config: TrainConfig
    ranks: Ranks
    precision: str
    sequence_length: int = 0


def model_size(model: nn.Module) -> ModelSize:
    """Of a built model."""
    config: Any = model.config
    parameters = sum(p.numel() for p in model.parameters())
    return ModelSize(
        config.num_hidden_layers, config.hidden_size, config.vocab_size, float(parameters)
    )


def describe(name: str, setup: EngineSetup, **more: Any) -> dict[str, Any]:
    """The part of ``Engine.resolved`` that every engine has."""
    config, ranks = setup.config, setup.ranks
    return {
        "engine": name,
        "precision": setup.precision,
        "world_size": ranks.world_size,
        "device": ranks.device.type,
        "torch": torch.__version__,
        "compile": config.compile,
        "activation_checkpointing": config.activation_checkpointing,
        "micro_batch": config.micro_batch,
        "clip": config.clip,
        **more,
    }


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Matrices decay; biases and LayerNorm weights, which have one dimension, do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the shared groups. Fused, one kernel a group: on GPUs
    and on CPUs, where an offloaded optimizer runs."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.scaled_lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients to a global norm of at most ``limit``; 0: no limit. Returns the norm
    before.

    CPUs sum squares in float32 in so few lanes that the norm of GPT-2's embedding alone is off by
    3e-3. Summed in pieces, it is off by 1e-6.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    pieces = [piece for p in trained for piece in _pieces(p.grad)]
    norm = nn.utils.get_total_norm(pieces)
    nn.utils.clip_grads_with_norm_(trained, limit or float("inf"), norm)
    return norm


def _pieces(gradient: Tensor | None) -> tuple[Tensor, ...]:
    assert gradient is not None
    return (
        torch.split(gradient.flatten(), 1 << 16) if gradient.device.type == "cpu" else (gradient,)
    )
