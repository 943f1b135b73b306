"""GPU-hours of a plan: by the site's GPU and the sweep's precision, without loading a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from families import LENGTH, tiny_config, tiny_model
from hpcscale.preview.cost import Estimate, estimate
from planning import open_plan


def planned(folder: Path, gpu_type: str | None, precision: str) -> Estimate:
    opened = open_plan(folder)
    return estimate(opened.config, opened.plan().start, gpu_type, precision)


@pytest.mark.parametrize(
    ("gpu_type", "precision", "peak", "told"),
    [
        ("H100", "bf16", 989.4e12, "H100 (SXM)"),
        ("H100", "fp32", 66.9e12, "H100 (SXM)"),
        ("a100", "bf16", 312e12, "A100"),
        ("MI250X", "bf16", 191.5e12, "MI250X (one of two dies)"),
    ],
)
def test_hours_are_those_of_the_gpu_in_the_precision_of_the_sweep(
    tmp_path: Path, gpu_type: str, precision: str, peak: float, told: str
) -> None:
    found = planned(tmp_path, gpu_type, precision)
    # Two evaluations of 96k tokens, each a third of training on them.
    tokens = found.train_tokens + 2 * 96_000 / 3
    flops = (6 * (12 * 12 * 768**2 + 50_257 * 768) + 12 * 12 * 768 * 1024) * tokens
    assert found.flops == pytest.approx(flops)
    assert found.gpu_hours == pytest.approx(flops / (0.35 * peak) / 3600)
    assert f"GPU-hours on {told} at an assumed 35% of its {precision} peak" in found.hours_text


@pytest.mark.parametrize(
    ("gpu_type", "precision", "why"),
    [
        (None, "bf16", "the site profile names no gpu_type"),
        ("V100", "bf16", "no bf16 peak of gpu_type V100 (SXM) is known"),
        ("unheard-of", "fp16", "no fp16 peak of gpu_type unheard-of is known"),
    ],
)
def test_hours_that_are_not_known_say_why(
    tmp_path: Path, gpu_type: str | None, precision: str, why: str
) -> None:
    found = planned(tmp_path, gpu_type, precision)
    assert found.gpu_hours is None
    assert found.hours_text == f"GPU-hours unknown ({why})"


def test_a_model_of_another_family_is_planned_without_torch(tmp_path: Path) -> None:
    tiny_model(tiny_config("llama")).save_pretrained(tmp_path)  # type: ignore[operator]
    code = (
        "import sys; from hpcscale.config.model import ModelConfig; "
        "from hpcscale.model.sizes import flops_per_token; "
        f"print(flops_per_token(ModelConfig(source={str(tmp_path)!r}), None, {LENGTH}), "
        "{'torch', 'transformers', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 32 * 384
    assert done.stdout.split(maxsplit=1) == [str(6.0 * weights + 12 * 2 * 32 * LENGTH), "set()\n"]
