"""The negative log-likelihood of each token of some rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hpcscale.model.isolation import isolating_inputs

IGNORED = -100


def token_nll(
    model: torch.nn.Module,
    inputs: Tensor,
    targets: Tensor,
    segments: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Nats of each target given the tokens before it in its row: float32 [B, T], 0 where the target
    is -100.

    inputs, targets: int64 [B, T]. With ``segments`` (int64 [B, T]) a token attends only within
    its segment, at ``positions`` that restart there; without, to all of its row before it. Raises
    ConfigError where the model cannot keep segments apart.
    """
    extra: dict[str, Any] = {}
    if positions is not None:
        extra["position_ids"] = positions
    if segments is not None:
        extra |= isolating_inputs(model, segments)
    logits = model(input_ids=inputs, use_cache=False, **extra).logits
    flat = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(targets.shape)
