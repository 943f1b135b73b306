"""The memory forecast: against closed forms here, against what torch keeps, against processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.model.build import build_model
from hpcscale.model.forward import token_nll
from hpcscale.train.memory import (
    ModelSize,
    activation_bytes,
    forecast_memory,
    forecast_stages,
    lowest_fitting,
)

#: No activations to speak of.
STATES = ModelSize(layers=0, width=1, vocabulary=1, parameters=1e9)


def states(stage: int, world: int, precision: str = "bf16", **given: Any) -> tuple[int, ...]:
    config = TrainConfig(micro_batch=1, **given)
    found = forecast_memory(
        STATES,
        config,
        engine="deepspeed",
        stage=stage,
        precision=precision,
        world_size=world,
        sequence_length=1,
    )
    return found.weights, found.gradients, found.optimizer, found.host


def test_states_are_those_of_the_zero_paper_with_fp32_accumulation() -> None:
    billion = 10**9
    assert states(0, 8, "fp32") == (4 * billion, 4 * billion, 8 * billion, 0)
    assert states(1, 8) == (2 * billion, 6 * billion, 12 * billion // 8, 0)
    assert states(2, 8) == (2 * billion, 4 * billion // 8, 12 * billion // 8, 0)
    assert states(3, 8) == (2 * billion // 8, 4 * billion // 8, 12 * billion // 8, 0)
    offloaded = states(2, 8, offload="optimizer")
    assert offloaded == (2 * billion, 4 * billion // 8, 0, 16 * billion // 8)


def kept_for_backward(model: torch.nn.Module, rows: int, length: int) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.zeros((rows, length), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_nll(model, ids, ids).sum()
    return sum(found.values())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_block_keeps_what_the_formula_counts(precision: str, dtype: torch.dtype) -> None:
    rows, length, width, vocabulary = 4, 64, 96, 300
    kept, told = [], []
    for layers in (1, 4):
        shape = Shape(layers=layers, width=width, heads=4)
        model = build_model(shape, vocabulary, length, 0).to(dtype)
        kept.append(kept_for_backward(model, rows, length))
        size = ModelSize(layers, width, vocabulary, 0.0)
        told.append(activation_bytes(size, rows * length, "deepspeed", precision, False))
    assert told[1] - told[0] == pytest.approx(kept[1] - kept[0], rel=0.02)


def test_checkpointing_keeps_the_inputs_of_blocks_and_one_block() -> None:
    size, tokens = ModelSize(12, 64, 100, 0.0), 1000
    every = activation_bytes(size, tokens, "torch", "fp32", False)
    less = activation_bytes(size, tokens, "torch", "fp32", True)
    assert every == tokens * 4 * 28 * 64 * 12 + 12 * tokens * 100
    assert less == tokens * 4 * 64 * 12 + tokens * 4 * 28 * 64


def test_auto_takes_the_lowest_stage_that_fits() -> None:
    size, config = ModelSize(48, 1600, 50_257, 1.56e9), TrainConfig(zero="auto", micro_batch=1)
    stages = forecast_stages(
        size, config, engine="deepspeed", precision="bf16", world_size=8, sequence_length=256
    )
    assert list(stages) == [1, 2, 3]
    totals = [found.total for found in stages.values()]
    assert lowest_fitting(stages, 10**12) == 1
    assert lowest_fitting(stages, round(totals[1] / 0.9) + 1) == 2
    assert lowest_fitting(stages, 10**9) == 3


# --- against processes

HERE = Path(__file__).parents[2]
TOLERANCE = 0.15


def measured(**settings: Any) -> tuple[float, float]:
    """Peak growth of a training process' memory, and its forecast; ``growth.py`` says how."""
    words = [f"{key}={value}" for key, value in settings.items()]
    # Freed blocks go back to the system, so that the process is as large as what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "growth.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    grown, told = done.stdout.split()[-2:]
    return float(grown), float(told)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"checkpointing": 1},
        {"precision": "bf16"},
        *({"engine": "deepspeed", "zero": zero} for zero in (0, 1, 2, 3)),
        *({"engine": "deepspeed", "zero": zero, "precision": "bf16"} for zero in (1, 2, 3)),
        {"engine": "deepspeed", "zero": 2, "offload": "optimizer"},
        {"engine": "deepspeed", "zero": 1, "offload": "optimizer", "precision": "bf16"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "torch",
)
def test_a_process_grows_as_forecast(settings: dict[str, Any]) -> None:
    # bf16 is slow on CPUs.
    tokens = 256 if settings.get("precision") == "bf16" else 1024
    grown, told = measured(tokens=tokens, **settings)
    assert told == pytest.approx(grown, rel=TOLERANCE)
