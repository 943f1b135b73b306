"""The size of a model directory before it is loaded, from the headers of its weights; no torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hpcscale.model import flops
from hpcscale.model.weights import CONSTANTS

#: Look-ups by token, position or distance, by what Transformers calls them.
_EMBEDDING = re.compile(
    r"(^|\.)(wte|wpe|w|tokens_embed|positions_embed|embed_in|embed_(?!out)\w+|\w*embed(dings?)?"
    r"|relative_attention_bias)\.weight$"
)
_FLOATS = {"F64", "F32", "F16", "BF16"}
#: The most that the format allows a header to take.
_LONGEST = 100_000_000


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """The size of a model by its files. parameters: all, a tied head once. matmul, attention: as in
    model/flops.py; None where shapes do not tell.
    """

    layers: int
    width: int
    vocabulary: int
    parameters: int
    matmul: int | None
    attention: int | None


def read_written(folder: Path) -> Written | None:
    """The size of the model in ``folder``; None where files are absent, unreadable or not whole."""
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        tensors = _read_tensors(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    layers, width = flops.layers_and_width(config)
    embeddings = {n for n, t in tensors.items() if len(t.shape) == 2 and _EMBEDDING.search(n)}
    tokens = _token_embedding(tensors, embeddings, config)
    if layers is None or width is None or tokens is None or not _whole(tensors, config, layers):
        return None
    return _counted(tensors, embeddings, tokens, config, layers, width)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Of all files that Transformers would load; without constants that are no parameters."""
    names = ["model.safetensors"]
    if not (folder / names[0]).is_file():
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for name in names:
        for key, value in _read_header(folder / name).items():
            if key != "__metadata__" and not CONSTANTS.search(key):
                found[key] = Tensor(value["dtype"], tuple(int(n) for n in value["shape"]))
    return found


def _read_header(path: Path) -> dict[str, Any]:
    """8 bytes of length, little end first, and as many of JSON."""
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= _LONGEST:
            raise ValueError(f"{path} is not a safetensors file")
        header: dict[str, Any] = json.loads(handle.read(length))
    return header


def _token_embedding(
    tensors: dict[str, Tensor], embeddings: set[str], config: dict[str, Any]
) -> str | None:
    """Its name; None where not exactly one look-up has a row for each token."""
    rows = config.get("vocab_size")
    found = [n for n in embeddings if flops.block_of(n) is None and tensors[n].shape[0] == rows]
    return found[0] if len(found) == 1 else None


def _whole(tensors: dict[str, Tensor], config: dict[str, Any], layers: int) -> bool:
    """Blocks are all there, none is beside them, and no number is packed with others."""
    numbers = {flops.block_of(name) for name in tensors} - {None}
    plain = all(t.dtype in _FLOATS for t in tensors.values() if len(t.shape) > 1)
    return plain and not config.get("quantization_config") and numbers == set(range(layers))


def _counted(
    tensors: dict[str, Tensor],
    embeddings: set[str],
    tokens: str,
    config: dict[str, Any],
    layers: int,
    width: int,
) -> Written | None:
    rows = tensors[tokens].shape[0]
    shapes = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if name not in embeddings and flops.is_met(name)
    }
    heads = [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and shape[0] == rows and flops.block_of(name) is None
    ]
    if len(heads) > 1:
        return None
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if not heads:  # it is the embedding's own matrix
        shapes[tokens] = tensors[tokens].shape
    elif config.get("tie_word_embeddings"):
        parameters -= math.prod(tensors[tokens].shape)
    return Written(
        layers,
        width,
        rows,
        parameters,
        flops.weights_met(shapes, config),
        flops.attention_width(shapes, config),
    )
