"""Building, loading and saving the models that are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpcscale.atomic import atomic_directory
from hpcscale.config.model import Shape, is_local
from hpcscale.errors import CheckpointError
from hpcscale.model.attention import install


def build_model(shape: Shape, vocab_size: int, context: int, eot_id: int) -> nn.Module:
    """A GPT-2 (Radford et al. 2019) with random weights, drawn from ``shape.seed`` alone."""
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        vocab_size=vocab_size,
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return _ready(model)


def build_from_config(values: dict[str, Any]) -> nn.Module:
    """A model of that Hugging Face config, in float32; its weights are there to be replaced."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    return _ready(model)


def load_model(source: str | Path, revision: str | None = None) -> nn.Module:
    """A causal language model in float32 from a directory or the hub; safetensors only.

    Dropout is switched off: its masks would make the result depend on how sequences are spread
    over ranks. Raises CheckpointError where the model is missing, broken, or out of reach.
    """
    from transformers import AutoModelForCausalLM

    _quiet()
    name = str(Path(source).expanduser()) if is_local(str(source)) else str(source)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision or "main",
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
        )
    except Exception as error:
        raise CheckpointError(_why(name, error)) from error
    return _ready(model)


def _quiet() -> None:
    """A bar for each of a thousand loads would fill the logs."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _why(name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if Path(name).is_dir():
        return (
            f"{name} holds no model that can be read ({reason}); it needs config.json and "
            "*.safetensors in Hugging Face format"
        )
    return (
        f"the model `{name}` cannot be loaded from the hub ({reason}); check the name, run "
        "`hpcscale data prepare` on a node with a network, or give a local directory"
    )


def _ready(model: Any) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
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
