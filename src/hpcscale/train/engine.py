"""What the training loop asks of an engine, and the parameter groups that all engines share."""

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
from hpcscale.train.state_reader import SavedState

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """Gradients averaged over ranks, one optimizer step, and the state behind them.

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
    #: Every setting as it runs, for the record: versions, and DeepSpeed's dict where it is used.
    resolved: dict[str, Any]

    @property
    def loss_factor(self) -> float:
        """What ``backward`` multiplies a loss with before it propagates it back."""

    def forward_pass(self, last: bool) -> AbstractContextManager[object]:
        """The context of one forward pass; ``last`` says that the step follows behind it."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of that pass."""

    def step(self, lr: float) -> float:
        """Clip, update, clear; the global norm of the gradients before clipping.

        Where the norm is not finite, nothing is updated on any rank.
        """

    def shards(self) -> Iterator[Shard]:
        """This rank's share of the training state, as views; not collective, and nothing is
        gathered. Over all ranks, each element of each trainable parameter stands once."""

    def updates(self) -> int:
        """The updates that Adam made, its bias correction's t."""

    def loss_scale(self) -> LossScale:
        """Where dynamic loss scaling stands; one that never moves outside fp16."""

    def load(self, saved: SavedState, updates: int, scale: LossScale) -> None:
        """Go on from ``saved``, which any engine, stage and number of ranks may have written.

        Called by all ranks. Raises CheckpointError where the model is another.
        """

    def weights(self) -> dict[str, Tensor] | None:
        """The float32 weights on the CPU, on rank 0; called by all ranks. None: they are in
        the module already."""

    def moments(self) -> Moments:
        """Copies of Adam's second moments in ``shards``."""


@dataclass(frozen=True)
class EngineSetup:
    """What every engine is made from. ``sequence_length``: what ``zero: auto`` forecasts with."""

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
    """What ``Engine.resolved`` holds of any engine."""
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
    """AdamW (Loshchilov and Hutter 2019) over the shared groups, as one kernel a group: on GPUs,
    and on CPUs, where an offloaded optimizer runs too."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.scaled_lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients to a global norm of at most ``limit``, 0 for any; the norm before.

    CPUs sum squares in float32 in so few lanes that the norm of GPT-2's embedding alone is off by
    3e-3; of pieces it is off by 1e-6.
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
