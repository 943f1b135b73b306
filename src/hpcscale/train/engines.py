"""The engines by name, and how one is made."""

from __future__ import annotations

import os
from dataclasses import replace

from hpcscale.errors import ConfigError
from hpcscale.train.distributed import device_memory
from hpcscale.train.engine import Engine, EngineSetup, model_size
from hpcscale.train.engine_torch import TorchEngine
from hpcscale.train.memory import forecast_stages, lowest_fitting


def make_engine(name: str, setup: EngineSetup) -> Engine:
    """``torch`` or ``deepspeed``. Raises ConfigError for what the device or engine lacks."""
    asked = setup.config.model_copy(update={"engine": name})
    if name == "deepspeed" and (problem := asked.engine_problem(setup.precision)):
        raise ConfigError(f"train: {problem}")
    setup = replace(setup, config=asked.model_copy(update={"zero": resolve_stage(name, setup)}))
    if setup.precision == "fp16" and setup.ranks.device.type != "cuda":
        raise ConfigError("train.precision fp16 needs a GPU; write fp32 or bf16")
    if setup.config.activation_checkpointing:
        enable = setup.model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    if name == "torch":
        return TorchEngine(setup)
    if name == "deepspeed":
        # Unset, DeepSpeed guesses it and prints the guess.
        os.environ.setdefault("DS_ACCELERATOR", setup.ranks.device.type)
        from hpcscale.train.engine_deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(setup)
    raise ConfigError(f"train.engine {name!r} is unknown; write torch or deepspeed")


def resolve_stage(name: str, setup: EngineSetup) -> int:
    """The ZeRO stage; `auto`: the lowest that by forecast fits on every rank. Collective."""
    config, ranks = setup.config, setup.ranks
    if config.zero != "auto":
        return config.zero
    size = model_size(setup.model)
    stages = forecast_stages(
        size,
        config,
        engine=name,
        precision=setup.precision,
        world_size=ranks.world_size,
        sequence_length=setup.sequence_length,
    )
    return int(ranks.all_max([lowest_fitting(stages, device_memory(ranks))])[0])
