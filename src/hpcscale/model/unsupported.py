"""Models that cannot be loaded: which, why, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcscale.config.model import is_local
from hpcscale.errors import CheckpointError

_CONVERT = (
    "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{name}')"
    ".save_pretrained('{name}-safetensors')\""
)


def refuse_unsupported(name: str, config: Any) -> None:
    """Raises CheckpointError where Transformers has no causal language model for ``config``, or one
    that is more than a language model.
    """
    from transformers import AutoModelForCausalLM, __version__

    kind = config.model_type
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise CheckpointError(
            f"{name} holds a model of type `{kind}`, for which Transformers {__version__} has no "
            "causal language model; docs/models.md lists the types that can be used"
        )
    if config.get_text_config() is not config:
        raise CheckpointError(
            f"{name} holds a model of type `{kind}`, which reads more than text; give its language "
            "model alone. docs/models.md lists the types that can be used"
        )
    if (Path(name) / "adapter_config.json").exists():
        raise CheckpointError(
            f"{name} holds an adapter beside the model; merge the two first, with "
            "merge_and_unload() and save_pretrained(DIRECTORY) of the library peft"
        )


def why_not_loaded(name: str, error: Exception) -> str:
    """Why Transformers did not load a model, and the remedy, in one sentence."""
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    folder = Path(name)
    if is_local(name) and not folder.is_dir():
        return (
            f"there is no directory {name}; give a directory with a model, or a hub id such as gpt2"
        )
    if not folder.is_dir():
        return (
            f"the model `{name}` cannot be loaded from the hub ({reason}); check the name, run "
            "`hpcscale data prepare` on a node with a network, or give a local directory"
        )
    if not (folder / "config.json").is_file():
        return f"{name} holds no model: it has no config.json; give a directory that has one"
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            return (
                f"{name} holds its weights as pickled *.bin files, which can run code when they "
                f"are read; if you trust them, convert them once: {_CONVERT.format(name=name)}"
            )
        return f"{name} holds no weights: it has a config.json and no *.safetensors"
    return (
        f"the model in {name} cannot be loaded ({reason}), although config.json and *.safetensors "
        "exist; fetch it again, or try a newer Transformers. docs/models.md lists the types "
        "of models that can be used"
    )
