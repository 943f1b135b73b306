"""Attention within documents: a row holds several, and no token attends to another one.

On GPUs, FlexAttention (Dong et al. 2024) skips the blocks of a row in which no pair may attend, so
the T x T scores never exist. Elsewhere a dense mask goes to torch's scaled dot product attention.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import (
    BlockMask,
    create_block_mask,
    create_mask,
    flex_attention,
)
from torch.nn.functional import scaled_dot_product_attention

_NAME = "hpcscale"
_log = logging.getLogger(__name__)


def install(model: nn.Module) -> None:
    """Let ``model`` also take block masks; without one, nothing changes.

    This is only for models with torch's scaled dot product attention: other kinds do more than
    FlexAttention is told here.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    config: Any = model.config
    plain = config._attn_implementation == "sdpa"
    if plain and getattr(model, "_supports_attention_backend", False):
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, _mask)
        model.set_attn_implementation(_NAME)  # type: ignore[operator]


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    device: torch.device | str = "cpu",
    **more: Any,
) -> Any:
    """What Transformers calls for the mask of each kind of layer: blocks for rows of several
    documents, which it finds by their position ids, and else what it would make itself."""
    from transformers.masking_utils import sdpa_mask

    several = attention_mask is None and not allow_is_causal_skip
    if several and q_length == kv_length and flex_works(torch.device(device)):
        return _blocks(mask_function, batch_size, q_length, device)
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        device=device,
        **more,
    )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """[B, H, T, D] to [B, T, H, D]: what Transformers calls in each layer."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if isinstance(attention_mask, BlockMask) and more.get("position_bias") is not None:
        rows, length = query.shape[0], query.shape[2]
        attention_mask = create_mask(
            attention_mask.mask_mod, rows, None, length, length, str(query.device)
        )
    if not isinstance(attention_mask, BlockMask):
        dense: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return dense
    attended = _flex(query.device.type)(
        query,
        key,
        value,
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


def _flex(device: str) -> Any:
    """Compiled on GPUs: uncompiled, it makes the T x T scores that it should avoid."""
    return _compiled() if device == "cuda" and not torch.compiler.is_compiling() else flex_attention


def segment_mask(model: nn.Module, segments: Tensor) -> Tensor | BlockMask:
    """The mask of segments int64 [B, T]: in blocks where the model and the device take them."""
    config: Any = model.config
    if config._attn_implementation == _NAME and flex_works(segments.device):
        return block_mask(segments)
    return dense_mask(segments, next(model.parameters()).dtype)


def dense_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive [B, 1, T, T]: 0 where a token may look, the lowest number elsewhere."""
    length = segments.shape[1]
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    allowed = same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
    mask = torch.zeros(allowed.shape, dtype=dtype, device=same.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def block_mask(segments: Tensor) -> BlockMask:
    """The mask of ``dense_mask`` in blocks, for all heads."""

    def may_look(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segments[row, query] == segments[row, key])

    rows, length = segments.shape
    return _blocks(may_look, rows, length, segments.device)


def _blocks(
    may_look: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    rows: int,
    length: int,
    device: torch.device | str,
) -> BlockMask:
    mask = create_block_mask(may_look, rows, None, length, length, device=str(device))
    # GPT-2 of Transformers asks it, as it would a tensor, whether it has to be expanded.
    mask.ndim = 4  # type: ignore[attr-defined]
    return mask


@functools.cache
def flex_works(device: torch.device) -> bool:
    """Whether FlexAttention compiles on this device and agrees with the dense mask, forward and
    backward; tried once per process, only on GPUs.
    """
    if device.type != "cuda":
        return False
    try:
        worst = disagreement(device, torch.bfloat16)
    except Exception as error:
        _log.warning("FlexAttention does not run on %s (%s); masks are dense", device, error)
        return False
    if worst > 0.05:
        _log.warning("FlexAttention is off by %.3g on %s; masks are dense", worst, device)
    return worst <= 0.05


def disagreement(device: torch.device, dtype: torch.dtype) -> float:
    """The difference of FlexAttention to the dense mask, in outputs and gradients.

    It is the largest one, relative to the largest value.
    """
    generator = torch.Generator().manual_seed(0)
    segments = torch.arange(256, device=device).div(100, rounding_mode="floor").expand(2, -1)
    drawn = torch.randn(3, 2, 2, 256, 64, generator=generator).to(device, dtype)

    def run(blocks: bool) -> list[Tensor]:
        leaves = drawn.clone().requires_grad_(True)
        if blocks:
            out = _flex(device.type)(*leaves, block_mask=block_mask(segments))
        else:
            q, k, v = leaves
            out = scaled_dot_product_attention(q, k, v, dense_mask(segments, dtype))
        (gradient,) = torch.autograd.grad(out.square().sum(), leaves)
        return [out.detach(), gradient]

    pairs = zip(run(True), run(False), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
