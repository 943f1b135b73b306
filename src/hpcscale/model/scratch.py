"""Families of models that can be built from a shape: their config, and their size before that.

Another family is an entry here, and a field of ``config.model.Shape`` that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcscale.config.model import Shape


@dataclass(frozen=True)
class Family:
    """config(shape, vocabulary, context, end-of-text id): a transformers config. block_weights:
    weights of all blocks, biases and norms left out."""

    config: Callable[[Shape, int, int, int], Any]
    block_weights: Callable[[Shape], float]


def _gpt2_config(shape: Shape, vocabulary: int, context: int, eot_id: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=eot_id,
        eos_token_id=eot_id,
    )


def _gpt2_weights(shape: Shape) -> float:
    """Attention has 4 d^2 weights a block, its MLP 8 d^2."""
    return 12.0 * shape.layers * shape.width**2


#: Radford et al. 2019.
GPT2 = Family(_gpt2_config, _gpt2_weights)


def family_of(shape: Shape) -> Family:
    """The family that the shape is built as."""
    return GPT2
