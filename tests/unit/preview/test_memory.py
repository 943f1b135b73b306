"""What a plan says of the memory of a training rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.config.profile import SiteProfile
from hpcscale.errors import ConfigError
from hpcscale.preview.checks import check
from hpcscale.preview.memory import gpu_memory, memory_lines
from planning import open_plan

TRAINING = (
    "train={global_batch: 65536, micro_batch: 16, zero: auto}",
    "resources={train: {gpus: 4}}",
)
SITE = "name: here\ngpus_per_node: 4\n"


def lines(tmp_path: Path, *overrides: str, site: str = SITE) -> list[str]:
    opened = open_plan(tmp_path, *TRAINING, *overrides, executor="slurm", site=site)
    check(opened, opened.plan(), dry_run=True)
    return memory_lines(opened, opened.plan())


def test_every_stage_is_forecast_and_auto_says_what_it_takes(tmp_path: Path) -> None:
    said = lines(tmp_path, site=SITE + "gpu_type: h100\n")
    assert len(said) == 2
    for part in ("at zero 1", "at zero 2", "at zero 3", "16 x 1024 tokens, deepspeed"):
        assert part in said[0]
    assert said[1].strip() == "zero auto takes 1 on the 80.0 GiB of a GPU"


def test_a_small_gpu_gets_a_higher_stage_or_a_way_out(tmp_path: Path) -> None:
    model = ["model.scratch.layers=48", "model.scratch.width=1600", "model.scratch.heads=25"]
    small = ["train.micro_batch=1", *model]
    assert "zero auto takes 2 " in lines(tmp_path, *small, site=SITE + "gpu_memory: 18GiB\n")[1]
    said = lines(tmp_path, *model, site=SITE + "gpu_memory: 16GiB\n")
    assert "lower train.micro_batch, or write activation_checkpointing: true" in said[-1]
    fixed = lines(tmp_path, *small, "train.zero=1", site=SITE + "gpu_memory: 18GiB\n")
    assert fixed[-1].endswith("or zero: auto")


def test_without_gpus_torch_takes_what_it_takes(tmp_path: Path) -> None:
    said = lines(tmp_path, "resources.train.gpus=0", "train.offload=optimizer")
    assert len(said) == 1
    assert said[0].endswith("16 x 1024 tokens, torch)")


def test_the_size_of_a_gpu_is_the_profile_s_or_its_type_s() -> None:
    assert gpu_memory(SiteProfile(name="x")) is None
    assert gpu_memory(SiteProfile(name="x", gpu_type="unheard-of")) is None
    assert gpu_memory(SiteProfile(name="x", gpu_type="A100")) == 40 << 30
    known = SiteProfile.model_validate({"name": "x", "gpu_type": "A100", "gpu_memory": "80GiB"})
    assert gpu_memory(known) == 80 << 30


def test_a_precision_that_the_machine_decides_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"plan\.yaml: train: DeepSpeed cannot accumulate bf16"):
        lines(tmp_path, "train.zero=0", "train.engine=deepspeed")
