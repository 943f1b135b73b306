"""Floating-point operations of a GPT-2-like model."""

from __future__ import annotations

from typing import Any


def matmul_parameters(config: Any) -> int:
    """Weights that each token is multiplied with: blocks and head, not the embedding look-ups."""
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inner = int(getattr(config, "n_inner", None) or 4 * width)
    return layers * (4 * width**2 + 2 * width * inner) + width * int(config.vocab_size)


def model_flops_per_token(config: Any, sequence_length: int) -> float:
    """Forward and backward FLOPs a token: 6 N + 12 L d T.

    N are the matmul parameters, L layers, d width, T sequence length; the second term is attention
    (Chowdhery et al. 2022, "PaLM", appendix B). Causality, which halves it, is not taken off.
    """
    attention = 12 * int(config.num_hidden_layers) * int(config.hidden_size) * sequence_length
    return 6.0 * matmul_parameters(config) + attention
