"""Floating-point operations of a model per token, from the shapes of its weights. No torch.

Forward and backward take 6 N + 12 L d T a token (Chowdhery et al. 2022, "PaLM", appendix B):

N: weights of the matrix products (and convolutions) that each token meets: blocks and head.
   Look-ups of embeddings, norms and biases do not count; of experts, only those count that a
   token is routed to.
L d: heads times their width, added up over the layers that have attention. Where values have
   another width than keys, d is the mean of both.
T: the sequence length. Neither causality nor a sliding window is taken off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: What configs call the same number.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim_model", "emb_dim")
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "decoder_attention_heads",
    "attention_heads",
)
_HEAD_WIDTH = ("attention_head_dim", "head_dim", "dim_head", "d_kv")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ROUTED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
#: Of the heads that choose what sparse attention looks at: their number and width.
_INDEX = ("index_n_heads", "index_head_dim")
_KINDS = ("layer_types", "layers_block_type", "block_types")

_ONE_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
_EXPERTS_AT_ONCE = re.compile(r"(^|\.)experts\.|\.weight$")
_ATTENTION = re.compile(r"^(?!.*linear_att).*(attn|attention|(^|\.)q_proj\.)")
_CHOOSER = re.compile(r"(^|[._])index(er)?[._]")
#: Attention to another text, which a language model alone does not have.
_CROSS = re.compile(r"encoder_attn|cross_?attn|cross_?attention", re.IGNORECASE)
_FIRST_NUMBER = re.compile(r"\.(\d+)\.")

Shapes = Mapping[str, tuple[int, ...]]


def model_flops_per_token(model: nn.Module, sequence_length: int) -> float | None:
    """Forward and backward FLOPs a token; None where the weights do not tell. ``model`` must hold
    its whole weights, before an engine divides them.
    """
    attention = attention_width(dict(_used_weights(model)), _config_of(model))
    return flops_per_token(matmul_parameters(model), attention, sequence_length)


def matmul_parameters(model: nn.Module) -> int | None:
    """N; None where it is unknown how many experts a token is routed to, or what a weight is."""
    return weights_met(dict(_used_weights(model)), _config_of(model))


def flops_per_token(
    matmul: int | None, attention: int | None, sequence_length: int
) -> float | None:
    """``matmul`` and ``attention`` as ``weights_met`` and ``attention_width`` give them."""
    if matmul is None or attention is None:
        return None
    return 6.0 * matmul + 6 * attention * sequence_length


def weights_met(shapes: Shapes, config: Mapping[str, Any]) -> int | None:
    """N of ``shapes`` by name, without embeddings and with the head, even where it is tied."""
    total = 0
    for name, shape in shapes.items():
        met = _met(name, shape, config)
        if met is None:
            return None
        total += met
    return total


def _met(name: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> int | None:
    """How many numbers of one weight a token is multiplied with."""
    size = math.prod(shape)
    if len(shape) == 2 and name.endswith(".weight"):
        return _routed(size, config) if _ONE_EXPERT.search(name) else size
    if len(shape) != 3:
        return 0
    if "conv" in name:
        return size
    of_experts = shape[0] == first(config, _EXPERTS) and _EXPERTS_AT_ONCE.search(name)
    return _routed(size, config) if of_experts else None


def _routed(size: int, config: Mapping[str, Any]) -> int | None:
    experts, routed = first(config, _EXPERTS), first(config, _ROUTED)
    if experts is None or routed is None or config.get("zero_expert_num"):  # which do nothing
        return None
    return size * routed // experts


def attention_width(names: Iterable[str], config: Mapping[str, Any]) -> int | None:
    """Widths of keys and of values, over all heads and layers that have attention: 2 L d.

    Heads that choose what the others attend to have only keys.
    """
    names = list(names)
    blocks = {block_of(name) for name in names if _ATTENTION.search(name)} - {None}
    kinds: Any = next((config[name] for name in _KINDS if config.get(name)), None)
    if kinds:
        blocks = {i for i in blocks if i is not None and _attends(kinds[i % len(kinds)])}
    if not blocks:
        return 0
    widths = _head_widths(config)
    if widths is None:
        return None
    choosing = blocks & {block_of(name) for name in names if _CHOOSER.search(name)}
    chooser = math.prod(first(config, (name,)) or 0 for name in _INDEX)
    return len(blocks) * sum(widths) + len(choosing) * chooser


def _attends(kind: str) -> bool:
    return "linear" not in kind and ("attention" in kind or kind == "hybrid")


def _head_widths(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Of all heads of a layer: of keys and of values."""
    heads, width = first(config, _HEADS), first(config, _WIDTH)
    if heads is None or width is None:
        return None
    plain, rotated, values = (
        first(config, (f"{n}_head_dim",)) for n in ("qk_nope", "qk_rope", "v")
    )
    if plain and rotated and values:
        return heads * (plain + rotated), heads * values
    own = heads * (first(config, _HEAD_WIDTH) or width // heads)
    return own, own


def block_of(name: str) -> int | None:
    """The layer that a weight belongs to."""
    found = _FIRST_NUMBER.search(name)
    return int(found[1]) if found else None


def first(config: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """The number that ``config`` has under one of ``names``."""
    return next((v for name in names if type(v := config.get(name)) is int and v > 0), None)


def layers_and_width(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return first(config, _LAYERS), first(config, _WIDTH)


def is_met(name: str) -> bool:
    """Whether a plain language model uses a weight of that name."""
    return not _CROSS.search(name)


def _used_weights(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """All but embeddings; a weight that an embedding shares with the head is the head's."""
    from torch import nn

    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for name, weight in module.named_parameters(path, recurse=False):
            if is_met(name):
                yield name, tuple(weight.shape)


def _config_of(model: nn.Module) -> dict[str, Any]:
    from hpcscale.model.limits import text_config

    values: dict[str, Any] = text_config(model).to_dict()
    return values
