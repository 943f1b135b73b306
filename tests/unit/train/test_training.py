"""The loop's parts in one process: batches, schedule, checkpoints that break, losses that do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError
from hpcscale.train.batching import BatchPlan, check_batch
from hpcscale.train.schedule import Schedule
from training import HERE, make_store, read, run_ranks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1000, 128, 1, 1), "write 896 or 1024"),
        ((1024, 128, 3, 1), r"ranks may number \[1, 2, 4, 8\]"),
        ((1024, 128, 2, 3), r"write one of \[1, 2, 4\]"),
        ((64, 128, 1, 1), "write 128 or 256"),
    ],
)
def test_batches_that_do_not_divide_name_the_values_that_do(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_batch(*arguments)
    assert check_batch(1024, 128, 2, 2) == 2


@pytest.mark.parametrize("rows", [1, 7, 8, 23, 64])
@pytest.mark.parametrize(("world", "micro"), [(1, 1), (2, 2), (4, 1), (1, 8)])
def test_every_row_is_seen_once_and_ranks_pass_equally_often(
    rows: int, world: int, micro: int
) -> None:
    plan = BatchPlan(rows, 8, world, micro)
    seen: list[int] = []
    for step in range(plan.steps):
        counts = {len(list(plan.passes(step, rank))) for rank in range(world)}
        assert len(counts) == 1
        for rank in range(world):
            for first, last in plan.passes(step, rank):
                seen += range(first, last)
    assert sorted(seen) == list(range(rows))


def test_the_schedule_warms_up_peaks_and_ends_at_the_minimum() -> None:
    config = TrainConfig(lr=1e-3, warmup="10%", min_lr_ratio=0.1)
    schedule = Schedule.of(config, 1000)
    assert schedule.lr(50) == pytest.approx(5e-4)
    assert schedule.lr(100) == pytest.approx(1e-3)
    assert schedule.lr(550) == pytest.approx(1e-3 * 0.55)
    assert schedule.lr(1000) == pytest.approx(1e-4)
    constant = Schedule.of(TrainConfig(lr=1e-3, warmup=200, schedule="constant"), 1000)
    assert [constant.lr(t) for t in (100, 200, 1000)] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_the_rate_scales_with_the_batch() -> None:
    config = TrainConfig(lr=1e-3, global_batch=4096, lr_scaling="linear", lr_reference_batch=1024)
    assert config.scaled_lr == pytest.approx(4e-3)
    assert Schedule.of(config, 10**6).peak == pytest.approx(4e-3)


# --- a run that is disturbed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_store(folder / "store", documents=300)
    return folder


SETTINGS: dict[str, Any] = {"micro_batch": 4, "every_steps": 3, "tokens": 6000}


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    return run_ranks(folder / "whole", 1, **SETTINGS)


def same(run: dict[str, Any], whole: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm", "lr", "tokens", "step"):
        assert [x[name] for x in run["lines"]] == [x[name] for x in whole["lines"]], name
    assert run["digest"] == whole["digest"]
    assert run["eval_loss"] == whole["eval_loss"]


def test_a_run_killed_twice_goes_on_bit_for_bit(folder: Path, whole: dict[str, Any]) -> None:
    out = folder / "killed"
    out.mkdir()
    words = [f"{key}={value}" for key, value in SETTINGS.items()]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    for kill_at in (5, 20):
        process = subprocess.Popen(
            [sys.executable, "-m", "training", str(out), *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(read(out)["lines"]) < kill_at and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list((out / "checkpoints").glob("step-*"))
    same(run_ranks(out, 1, **SETTINGS), whole)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "no manifest"])
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(
    folder: Path, whole: dict[str, Any], damage: str
) -> None:
    out = folder / f"broken-{damage.replace(' ', '-')}"
    run_ranks(out, 1, check=False, stop_at=11, **SETTINGS)
    tags = sorted(p.name for p in (out / "checkpoints").glob("step-*"))
    assert tags == ["step-00000009", "step-00000011"], "keep: 2"
    newest = out / "checkpoints" / tags[-1]
    state = newest / "rank-00000.safetensors"
    if damage == "flip":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "truncate":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "delete":
        state.unlink()
    else:
        (newest / "manifest.json").unlink()
    same(run_ranks(out, 1, **SETTINGS), whole)


def test_what_a_killed_save_leaves_behind_is_no_checkpoint(
    folder: Path, whole: dict[str, Any]
) -> None:
    out = folder / "partial"
    run_ranks(out, 1, check=False, stop_at=7, **SETTINGS)
    partial = out / "checkpoints" / "step-00000012.partial"
    partial.mkdir()
    (partial / "rank-00007.safetensors").write_bytes(b"half")
    same(run_ranks(out, 1, **SETTINGS), whole)
    assert not partial.exists()


def test_another_tasks_checkpoints_are_refused(folder: Path) -> None:
    out = folder / "foreign"
    run_ranks(out, 1, check=False, stop_at=4, **SETTINGS)
    run = run_ranks(out, 1, check=False, key="another", **SETTINGS)
    assert run["codes"] == [2]
    assert "belongs to another task (key, this is another)" in run["output"]


def test_a_loss_that_is_not_finite_names_the_step(folder: Path) -> None:
    run = run_ranks(folder / "diverged", 1, check=False, lr=1e30, clip=0.0, **SETTINGS)
    assert run["codes"] == [2]
    assert "TrainingError: step " in run["output"]
    assert "lower train.lr" in run["output"]
