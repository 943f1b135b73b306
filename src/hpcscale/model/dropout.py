"""Switch off dropout: its masks would make a result depend on how rows are spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hpcscale.errors import CheckpointError
from hpcscale.model.probes import logits_of, trial
from hpcscale.model.sample import sample_rows


def without_dropout(config: Any) -> Any:
    """``config`` with every probability of dropout at 0, also in its sub-configs.

    Models read these when they are built, so functional dropout is off too.
    """
    for part in _parts(config):
        for name, value in vars(part).items():
            # dropout, resid_pdrop, layerdrop, drop_path_rate
            if isinstance(value, float) and "drop" in name:
                setattr(part, name, 0.0)
    return config


def _parts(config: Any) -> Iterator[Any]:
    from transformers import PretrainedConfig

    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)


def switch_off_noise(model: nn.Module) -> None:
    """Switch off dropout that no setting of the config controls, and the jitter of routers.

    Some models also use their jitter as a threshold in evaluation: these keep it.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    jitter = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if "jitter" in name and isinstance(value, float) and value
    ]
    if not jitter:
        return
    rows = sample_rows(model)
    before = logits_of(model, rows)
    for module, name, _ in jitter:
        setattr(module, name, 0.0)
    if not torch.equal(logits_of(model, rows), before):
        for module, name, value in jitter:
            setattr(module, name, value)


def training_noise(model: nn.Module) -> float:
    """The largest difference between the logits of two training passes over the same tokens,
    relative to the largest logit; 0 where nothing in a training pass is random."""
    rows, passes = sample_rows(model), []
    with trial(model, training=True), torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            passes.append(model(input_ids=rows, use_cache=False).logits.float())
    first, second = passes
    return float((first - second).abs().max() / first.abs().max())


def check_repeatable(model: nn.Module) -> None:
    """Raises CheckpointError where two training passes differ."""
    noise = training_noise(model)
    if not noise <= 1e-6:
        raise CheckpointError(
            f"the model ({model.config.model_type}) computes something random in training that "  # type: ignore[union-attr]
            f"its config does not switch off (two passes over the same tokens differ by "
            f"{noise:.1e} of the largest logit), so the result would depend on the number of "
            "ranks and the micro-batch; train another model"
        )
