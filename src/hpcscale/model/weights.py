"""Whether a checkpoint gave a model all of its weights, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpcscale.errors import CheckpointError

#: Constants that older versions of Transformers saved: causal masks, rotary frequencies, positions.
CONSTANTS = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|position_ids$"
)
_SHOWN = 3


def check_weights(name: str, report: Mapping[str, Any]) -> None:
    """Raises CheckpointError naming the parameters that the checkpoint of model ``name`` does not
    give, gives in another shape, or gives although the model has none of that name.

    ``report``: what ``from_pretrained(output_loading_info=True)`` returns beside the model.
    """
    missing = sorted(report["missing_keys"])
    reshaped = sorted(
        f"{key} (shape {tuple(found)} in the file, {tuple(wanted)} in the model)"
        for key, found, wanted in report["mismatched_keys"]
    )
    unexpected = sorted(key for key in report["unexpected_keys"] if not CONSTANTS.search(key))
    faults = [
        _count(missing, "parameter is", "parameters are", "not in the checkpoint"),
        _count(reshaped, "parameter has", "parameters have", "another shape there"),
        _count(unexpected, "tensor of it belongs", "tensors of it belong", "to no parameter"),
        *(str(error) for error in report.get("error_msgs") or ()),
    ]
    if any(faults):
        raise CheckpointError(
            f"the checkpoint of the model {name} does not fit its config.json: "
            f"{'; '.join(filter(None, faults))}. {_way_out(missing, unexpected)}"
        )


def _count(names: list[str], one: str, several: str, what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    verb = one if len(names) == 1 else several
    return f"{len(names)} {verb} {what}: {', '.join(names[:_SHOWN])}{more}"


def _way_out(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    prefix = _wrapper(missing, unexpected)
    if prefix == "_orig_mod.":
        return (
            "The names start with `_orig_mod.`, as torch.compile makes them: save the model under "
            "it, model._orig_mod.save_pretrained(DIRECTORY)"
        )
    if prefix:
        return (
            f"The names start with `{prefix}`, as a wrapper around the model makes them: save the "
            "model that it wraps, with save_pretrained(DIRECTORY)"
        )
    return "Save the model again with save_pretrained(DIRECTORY), or correct its config.json"


def _wrapper(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    """The prefix of a missing parameter's name in the checkpoint."""
    found = list(unexpected)
    pairs = ((name, key) for key in missing for name in found)
    return next((name.removesuffix(key) for name, key in pairs if name.endswith(f".{key}")), "")
