"""Whether budgets can share trunks, and what a plan says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.errors import ConfigError
from hpcscale.preview.checks import check
from hpcscale.preview.trunk import trunk_lines, trunk_problems
from hpcscale.sweep import open_sweep
from planning import QUICKSTART

BRANCH = ("train.warmup=8k", "train.schedule=wsd-branch")


def test_a_plan_names_branch_points_and_what_they_save() -> None:
    budgets = "budgets=[32k, 64k, 128k, 256k, 512k, 1024k]"
    (line,) = trunk_lines(load_sweep(QUICKSTART, (*BRANCH, budgets)))
    assert "32k from 24.6k, 64k from 51.2k" in line
    assert "1.22M tokens trained, 1.19x the largest budget (separate runs: 1.97x)" in line
    assert not trunk_lines(load_sweep(QUICKSTART))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [
                "selection.1={name: best, method: tracin}",
                "data.query.corpus=stdlib",
                "data.query.tokens=20k",
            ],
            "--set selection.1={name: best, method: tracin}: `schedule",
        ),
        (["train.warmup=60k"], "--set train.warmup=60k: a warm-up of 60k tokens is not over at"),
    ],
)
def test_refused_before_anything_starts(tmp_path: Path, overrides: list[str], said: str) -> None:
    sweep = open_sweep(QUICKSTART, (f"root={tmp_path}", *BRANCH, *overrides), "local")
    with pytest.raises(ConfigError) as caught:
        check(sweep, sweep.plan())
    assert said in str(caught.value)
    assert "or write `train.schedule: wsd`" in str(caught.value)
    single = load_sweep(QUICKSTART, (*BRANCH, *overrides, "train.schedule=wsd"))
    assert not list(trunk_problems(single))


def test_a_refusal_names_the_line(tmp_path: Path) -> None:
    text = QUICKSTART.read_text().replace("warmup: 5%", "warmup: 60k, schedule: wsd-branch")
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("train:"))
    sweep = open_sweep(file, (f"root={tmp_path}",), "local")
    with pytest.raises(ConfigError, match=f"sweep.yaml:{line}: a warm-up of 60k"):
        check(sweep, sweep.plan())
    file.write_text(text.replace("60k", "5%"))
    with pytest.raises(ConfigError, match=f"sweep.yaml:{line}: `train.warmup`: `schedule: wsd-b"):
        load_sweep(file)
