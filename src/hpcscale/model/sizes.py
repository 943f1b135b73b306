"""The size and FLOPs of a model that is not loaded yet, as far as a sweep file tells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcscale.config.model import ModelConfig, is_local
from hpcscale.model import flops as counted
from hpcscale.model.headers import Written, read_written
from hpcscale.model.scratch import family_of


@dataclass(frozen=True)
class ModelSize:
    """parameters: embeddings and a tied head counted once; biases and norms may be left out."""

    layers: int
    width: int
    vocabulary: int
    parameters: float


#: Radford et al. 2019, embeddings included once: layers, width, parameters.
_GPT2 = {
    "gpt2": (12, 768, 124.4e6),
    "gpt2-medium": (24, 1024, 354.8e6),
    "gpt2-large": (36, 1280, 774.0e6),
    "gpt2-xl": (48, 1600, 1557.6e6),
}


def flops_per_token(
    model: ModelConfig, vocabulary: int | None, sequence_length: int
) -> float | None:
    """Forward and backward: 6 N + 12 L d T (model/flops.py).

    None for a model whose size is not known before it is loaded.
    """
    if written := _written(model):
        return counted.flops_per_token(written.matmul, written.attention, sequence_length)
    size = model_size(model, vocabulary)
    if size is None:
        return None
    return 6 * size.parameters + 12.0 * size.layers * size.width * sequence_length


def model_size(model: ModelConfig, vocabulary: int | None) -> ModelSize | None:
    """None for a model whose size is not known before it is loaded."""
    if model.scratch is not None:
        shape, vocabulary = model.scratch, vocabulary or 50_257
        weights = family_of(shape).block_weights(shape) + vocabulary * shape.width
        return ModelSize(shape.layers, shape.width, vocabulary, weights)
    assert model.source is not None
    if model.source in _GPT2:
        layers, width, parameters = _GPT2[model.source]
        return ModelSize(layers, width, 50_257, parameters)
    written = _written(model)
    if written is None:
        return None
    return ModelSize(written.layers, written.width, written.vocabulary, float(written.parameters))


def _written(model: ModelConfig) -> Written | None:
    """Of a directory; None for a hub id, a shape, and files that do not tell."""
    if model.source is None or model.source in _GPT2 or not is_local(model.source):
        return None
    return read_written(Path(model.source).expanduser())
