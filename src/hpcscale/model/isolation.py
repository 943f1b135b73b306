"""How to make a model keep the documents of a row apart, found by trying it."""

from __future__ import annotations

from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hpcscale.errors import ConfigError
from hpcscale.model.attention import segment_mask
from hpcscale.model.limits import text_config
from hpcscale.model.probes import difference, logits_of, rounding
from hpcscale.model.sample import sample_rows

#: ``positions``: the model's layers make their masks, whatever these are, from position ids that
#: restart at each document. ``mask``: they take a mask of ours, causal within each document.
Way = Literal["positions", "mask"]
_LENGTH = 24
#: Settings of layers whose mask is narrower than causal, which a mask of ours would replace.
_WINDOWS = (
    "sliding_window",
    "attention_window",
    "window_size",
    "attention_chunk_size",
    "local_attention",
)
_ways: WeakKeyDictionary[nn.Module, Way | None] = WeakKeyDictionary()


def way_to_isolate(model: nn.Module) -> Way | None:
    """The way that gives each document the logits that it has alone in a row, or None.

    It is tried once per model.
    """
    if model not in _ways:
        _ways[model] = next((way for way in _candidates(model) if _separates(model, way)), None)
    return _ways[model]


def check_isolation(model: nn.Module) -> None:
    """Raises ConfigError where documents of one row cannot be kept apart in ``model``."""
    if way_to_isolate(model) is None:
        kind = text_config(model).model_type
        raise ConfigError(
            f"data.packing isolate: models of type `{kind}` compute other logits for a document "
            "in a packed row than for the document alone, both with position ids and with "
            "a mask; write `packing: concat`"
        )


def isolating_inputs(model: nn.Module, segments: Tensor) -> dict[str, Any]:
    """What the forward pass needs besides position ids that restart at each segment.

    segments: int64 [B, T]. Raises ConfigError as ``check_isolation`` does.
    """
    plain = unwrapped(model)
    check_isolation(plain)
    if way_to_isolate(plain) == "positions":
        return {}
    return {"attention_mask": segment_mask(plain, segments)}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside an engine's wrappers."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def isolation_error(model: nn.Module, way: Way) -> float:
    """The largest difference between logits of documents in packed rows and alone in a row.

    It is relative to the largest logit.
    """
    rows = sample_rows(model, 2, _LENGTH)
    cuts = _document_lengths(rows.shape[1])
    segments = torch.stack([_repeated(range(len(cut)), cut) for cut in cuts]).to(rows.device)
    positions = torch.stack([torch.cat([torch.arange(n) for n in cut]) for cut in cuts])
    extra: dict[str, Any] = {"position_ids": positions.to(rows.device)}
    if way == "mask":
        extra["attention_mask"] = segment_mask(model, segments)
    packed = logits_of(model, rows, **extra).flatten(0, 1)
    pieces = [piece for row, cut in zip(rows, cuts, strict=True) for piece in row.split(cut)]
    alone = torch.cat([logits_of(model, piece[None])[0] for piece in pieces])
    return difference(packed, alone)


def _document_lengths(length: int) -> list[list[int]]:
    """Of the documents in two rows, one of a single token among them."""
    half, fifth = length // 2, length // 5 + 1
    rows = ([length - 1 - half, 1, half], [fifth, length - fifth])
    return [[n for n in row if n > 0] for row in rows]


def _repeated(numbers: range, counts: list[int]) -> Tensor:
    return torch.tensor(numbers).repeat_interleave(torch.tensor(counts))


def _candidates(model: nn.Module) -> list[Way]:
    config = text_config(model)
    narrow = any(getattr(config, name, None) for name in _WINDOWS)
    return ["positions"] if narrow else ["positions", "mask"]


def _separates(model: nn.Module, way: Way) -> bool:
    try:
        return isolation_error(model, way) <= rounding(model)
    except torch.OutOfMemoryError:  # which says nothing about the model
        raise
    except Exception:  # whatever a model does with an input that it does not know
        return False
