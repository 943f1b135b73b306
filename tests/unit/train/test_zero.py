"""The choice of engine, stage and offload, and the DeepSpeed dict that follows from it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcscale.config.load import load_sweep
from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError
from hpcscale.model.build import build_model
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import EngineSetup, clip_gradients
from hpcscale.train.engines import make_engine
from hpcscale.train.zero import deepspeed_config, resolve_engine, stages_of

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed.json"
CHOICES = [
    (zero, precision, offload)
    for zero, precision, offload in itertools.product(
        (0, 1, 2, 3), ("fp32", "bf16", "fp16"), ("none", "optimizer")
    )
    if zero or (precision == "fp32" and offload == "none")
]


def resolved(zero: Any, precision: str, offload: Any) -> dict[str, Any]:
    config = TrainConfig(zero=zero, offload=offload, micro_batch=4, engine="deepspeed")
    values = deepspeed_config(config, precision, world_size=8, parameters=124_439_808)
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def test_every_choice_is_the_dict_that_was_agreed_on() -> None:
    """After a wanted change: write ``found`` to the file, and read its diff."""
    found = {f"zero{z}-{p}-{o}": resolved(z, p, o) for z, p, o in CHOICES}
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


#: Of features that are never on, and old names of values that are written.
LEFT_OUT = {
    "zenflow",
    "leaf_module",
    "log_trace_cache_warnings",
    "enable_sanity_checks",
    "override_module_apply",
    "pipeline_loading_checkpoint",
    "parameter_alignment",
    "save_muon_momentum_buffer_in_memory",
    "cpu_offload",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
    "stage3_gather_fp16_weights_on_model_save",
}


def test_no_value_of_a_section_in_use_is_left_to_deepspeed() -> None:
    """DeepSpeed's own models list what there is."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig

    def keys(model: Any) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    ours = resolved(3, "bf16", "optimizer")
    zero = ours["zero_optimization"]
    assert set(zero) == keys(DeepSpeedZeroConfig) - LEFT_OUT
    assert set(ours["bf16"]) == keys(DeepSpeedBF16Config)
    assert set(ours["fp16"]) == keys(DeepSpeedFP16Config)
    # No files on NVMe, and no cores set aside for a CPUAdam that is not used.
    unused = {"nvme_path", "cpuadam_cores_perc"}
    assert set(zero["offload_optimizer"]) == keys(DeepSpeedZeroOffloadOptimizerConfig) - unused


@pytest.mark.parametrize(
    ("given", "precision", "gpu", "engine"),
    [
        ({}, "fp32", False, "torch"),
        ({}, "bf16", True, "deepspeed"),
        ({"zero": 0}, "bf16", True, "torch"),
        ({"zero": 0}, "fp32", True, "deepspeed"),
        ({"zero": "auto", "offload": "optimizer"}, "bf16", True, "deepspeed"),
        ({"offload": "optimizer"}, "fp32", False, "torch"),
        ({"engine": "deepspeed"}, "fp32", False, "deepspeed"),
    ],
)
def test_auto_takes_the_engine_that_can(
    given: dict[str, Any], precision: str, gpu: bool, engine: str
) -> None:
    assert resolve_engine(TrainConfig(**given), precision, gpu) == engine


def test_auto_never_takes_a_stage_that_deepspeed_refuses() -> None:
    for precision, offload in itertools.product(("fp32", "bf16", "fp16"), ("none", "optimizer")):
        for stage in stages_of("deepspeed", precision, offload):
            config = TrainConfig.model_validate(
                {"engine": "deepspeed", "zero": stage, "offload": offload}
            )
            assert config.engine_problem(precision) is None


SWEEP = """
name: x
model: {scratch: {layers: 1, width: 8, heads: 1}}
tokenizer: {train: 300}
data:
  base: {corpus: stdlib, tokens: 10k}
  pool: {corpus: stdlib, tokens: 10k}
  eval: {corpus: stdlib, tokens: 1k}
budgets: [1k]
train: {TRAIN}
"""


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("engine: deepspeed, zero: 0, precision: bf16", "`zero: 1`, or `engine: torch`"),
        ("engine: torch, offload: optimizer", "write `engine: deepspeed`"),
        ("zero: 0, offload: optimizer", "needs `zero: 1`"),
    ],
)
def test_what_no_engine_does_is_refused_with_the_file_and_a_way_out(
    tmp_path: Path, train: str, said: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("TRAIN", train))
    with pytest.raises(ConfigError, match=said) as caught:
        load_sweep(path)
    assert "sweep.yaml:10" in str(caught.value)


def test_a_precision_that_the_machine_decides_is_checked_again() -> None:
    config = TrainConfig(engine="deepspeed", zero=0)
    setup = EngineSetup(_tiny(), config, Ranks(), "bf16", 16)
    with pytest.raises(ConfigError, match="`zero: 1`, or `engine: torch`"):
        make_engine("deepspeed", setup)


def _tiny() -> torch.nn.Module:
    return build_model(Shape(layers=1, width=8, heads=1), 64, 16, 63)


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_an_engine_says_all_that_it_runs_with(engine: str) -> None:
    made = make_engine(engine, EngineSetup(_tiny(), TrainConfig(zero="auto"), Ranks(), "fp32", 16))
    told = json.loads(json.dumps(made.resolved))
    assert (told["engine"], told["torch"]) == (engine, torch.__version__)
    if engine == "deepspeed":
        # A tiny model fits anywhere, and the lowest stage is taken.
        assert told["zero"] == made.stage == told["config"]["zero_optimization"]["stage"] == 0


def losses(engine: str, **given: Any) -> list[float]:
    """Of three steps of two passes."""
    config = TrainConfig(zero=1 if engine == "deepspeed" else 0, clip=0.1, **given)
    model = build_model(Shape(layers=2, width=32, heads=2), 64, 16, 63)
    made = make_engine(engine, EngineSetup(model, config, Ranks(), "fp32", 16))
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(3):
        for last in (False, True):
            ids = torch.randint(0, 64, (4, 16), generator=generator)
            with made.forward_pass(last):
                loss = token_nll(made.model, ids, ids).sum() / 128
            made.backward(loss)
            found.append(loss.item())
        found.append(made.step(1e-2))
    return found


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_checkpointing_changes_memory_alone(engine: str) -> None:
    plain, saved = losses(engine), losses(engine, activation_checkpointing=True)
    assert saved == pytest.approx(plain, rel=1e-6)
    assert plain[-3] < plain[0], "three steps taught something"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_compiling_changes_rounding_alone(engine: str) -> None:
    assert losses(engine, compile=True) == pytest.approx(losses(engine), rel=1e-5)


def test_the_norm_of_a_large_gradient_is_its_norm() -> None:
    """Torch's own is off by 1e-3 for as many elements as the embedding of GPT-2 has, on CPUs."""
    model = torch.nn.Linear(8_000, 4_800, bias=False)
    gradient = 1e-4 * torch.randn(4_800, 8_000, generator=torch.Generator().manual_seed(0))
    model.weight.grad = gradient.clone()
    exact = gradient.double().square().sum().sqrt().item()
    assert clip_gradients(model, 0.1).item() == pytest.approx(exact, rel=2e-6)
    assert model.weight.grad.double().norm().item() == pytest.approx(0.1, rel=1e-5)
    model.weight.grad = gradient.clone()
    clip_gradients(model, 0.0)
    assert torch.equal(model.weight.grad, gradient), "0 clips nothing"
