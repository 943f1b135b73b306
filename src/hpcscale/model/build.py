"""Build, load and save the models that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpcscale.atomic import atomic_directory
from hpcscale.config.model import Shape, is_local
from hpcscale.errors import CheckpointError
from hpcscale.model.attention import install
from hpcscale.model.dropout import switch_off_noise, without_dropout
from hpcscale.model.probes import check_causal
from hpcscale.model.scratch import family_of
from hpcscale.model.unsupported import refuse_unsupported, why_not_loaded
from hpcscale.model.weights import check_weights


def build_model(shape: Shape, vocab_size: int, context: int, eot_id: int) -> nn.Module:
    """A model with random weights, drawn from ``shape.seed`` alone."""
    from transformers import AutoModelForCausalLM

    config = family_of(shape).config(shape, vocab_size, context, eot_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return _ready(model)


def build_from_config(values: dict[str, Any]) -> nn.Module:
    """A model of that Hugging Face config, in float32; its weights are to be replaced."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = without_dropout(AutoConfig.for_model(**values))
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=_attention(config)
        )
    return _ready(model)


def load_model(source: str | Path, revision: str | None = None) -> nn.Module:
    """A causal language model in float32 from a directory or the hub; safetensors only.

    Dropout is switched off: its masks would make the result depend on how sequences are spread
    over ranks. Raises CheckpointError where the model is missing, broken or out of reach, where
    a weight of it is not in the checkpoint, and where it is not causal.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _quiet()
    name = str(Path(source).expanduser()) if is_local(str(source)) else str(source)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision or "main")
        refuse_unsupported(name, config)
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            config=without_dropout(config),
            revision=revision or "main",
            dtype=torch.float32,
            attn_implementation=_attention(config),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, with their names
        )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(why_not_loaded(name, error)) from error
    check_weights(name, report)
    ready = _ready(model)
    check_causal(name, ready)
    return ready


def _attention(config: Any) -> str:
    """Torch's scaled dot product attention, where the model has it."""
    from transformers import AutoModelForCausalLM

    kind = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def _quiet() -> None:
    """A bar for each of a thousand loads would fill the logs, and what the library reports of
    weights is raised as an error here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _ready(model: Any) -> nn.Module:
    switch_off_noise(model)
    model.config.use_cache = False
    if torch.cuda.is_available():
        install(model)
    trained: nn.Module = model
    return trained


def save_model(
    model: nn.Module, out: Path, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write ``model`` to ``out`` in Hugging Face format, whole or not at all.

    Tied weights are written once and tied again when loaded. ``state_dict`` replaces the weights,
    for engines that hold them elsewhere.
    """
    _quiet()
    with atomic_directory(out) as folder:
        weights = {} if state_dict is None else {"state_dict": state_dict}
        model.save_pretrained(folder, **weights)  # type: ignore[operator]
