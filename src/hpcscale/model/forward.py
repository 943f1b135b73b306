"""From rows of tokens to the negative log-likelihood of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def token_nll(
    model: torch.nn.Module,
    inputs: Tensor,
    targets: Tensor,
    segments: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Nats of each target given its row so far: float32 [B, T], 0 where the target is -100.

    inputs, targets: int64 [B, T]. With ``segments`` (int64 [B, T]) a token attends only within
    its segment, at ``positions`` that restart there; without, to all of its row before it.
    """
    extra = {}
    if positions is not None:
        extra["position_ids"] = positions
    if segments is not None:
        extra["attention_mask"] = segment_mask(segments, next(model.parameters()).dtype)
    logits = model(input_ids=inputs, use_cache=False, **extra).logits
    flat = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(targets.shape)


def segment_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive [B, 1, T, T]: 0 where a token may look, the lowest number elsewhere."""
    length = segments.shape[1]
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    allowed = same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
    mask = torch.zeros(allowed.shape, dtype=dtype, device=same.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min).unsqueeze(1)
