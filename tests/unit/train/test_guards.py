"""Steps that are not finite, and losses that jump: what is left out, stopped, and written down."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError, TrainingError
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import adamw
from hpcscale.train.guards import NONFINITE, SPIKES, Guard
from hpcscale.train.schedule import Schedule
from hpcscale.train.watch import without_skips
from training import LENGTH, make_store, poisoned, prepare, run_ranks, settings_of, train_here

#: 8 rows a step: rows of the steps 4 and 5, counted from 1.
BAD = [27, 33]
SETTINGS: dict[str, Any] = {"micro_batch": 2, "tokens": 1500}
SAME = ("step", "loss", "grad_norm", "lr", "tokens", "skipped")


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "store")
    _, stream, _ = prepare(tmp_path / "run", settings_of(**SETTINGS))
    monkeypatch.setattr("hpcscale.train.loop.token_nll", poisoned(stream, BAD))


def told(folder: Path, name: str = NONFINITE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def plain_losses(folder: Path, left_out: set[int]) -> list[float]:
    """A plain loop that takes no step where ``left_out`` says so."""
    model, stream, config = prepare(folder, settings_of(**SETTINGS))
    schedule, optimizer = Schedule.of(config, stream.n_tokens), adamw(model.train(), config)
    losses, seen = [], 0
    for step, first in enumerate(range(0, stream.n_rows, 8), 1):
        batch = stream.rows(first, min(first + 8, stream.n_rows))
        logits = model(input_ids=torch.from_numpy(batch.inputs)).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten()
        )
        seen += batch.n_tokens
        losses.append(float(loss.detach()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(seen)
        if step not in left_out:
            optimizer.step()
        optimizer.zero_grad()
    return losses


def test_a_skipped_step_updates_nothing_and_the_run_goes_on(tmp_path: Path, poison: None) -> None:
    lines = train_here(tmp_path / "run", skip=2, **SETTINGS)
    assert [x["step"] for x in lines if x["skipped"]] == [4, 5]
    assert [x["loss"] for x in lines if x["skipped"]] == [None, None]
    expected = plain_losses(tmp_path / "run", {4, 5})
    for line, loss in zip(lines, expected, strict=True):
        if not line["skipped"]:
            assert line["loss"] == pytest.approx(loss, rel=1e-5), line["step"]
    assert lines[-1]["tokens"] == 1500, "tokens that were skipped are spent"


def test_a_skipped_batch_is_written_down(tmp_path: Path, poison: None) -> None:
    train_here(tmp_path / "run", skip=2, **SETTINGS)
    lines = told(tmp_path / "run")
    assert [(x["step"], x["rows"], x["action"]) for x in lines] == [
        (4, [24, 32], "skip"),
        (5, [32, 40], "skip"),
    ]
    _, stream, _ = prepare(tmp_path / "run", settings_of(**SETTINGS))
    # The test's store names its documents 1000, 1001, ... and the stream takes them in order.
    owners = sorted({int(i) for i in stream.rows(27, 28).segments.ravel()})
    assert [int(i, 16) for i in lines[0]["documents"][27 - 24]] == [1000 + i for i in owners]


@pytest.mark.parametrize("skip", [0, 1])
def test_a_run_stops_where_it_may_skip_no_more(tmp_path: Path, poison: None, skip: int) -> None:
    with pytest.raises(TrainingError, match=rf"step {4 + skip}: loss inf.*on_nonfinite"):
        train_here(tmp_path / "run", skip=skip, **SETTINGS)
    assert [x["action"] for x in told(tmp_path / "run")] == ["skip"] * skip + ["stop"]


def test_a_watched_run_skips_nothing(tmp_path: Path, poison: None) -> None:
    with pytest.raises(ConfigError, match="on_nonfinite: skip is not for a run with watchers"):
        train_here(tmp_path / "run", skip=2, snapshots=2, **SETTINGS)
    assert without_skips(TrainConfig(on_nonfinite="skip", lr=1.0)) == TrainConfig(lr=1.0)
    with pytest.raises(TrainingError, match="step 4:"):
        train_here(tmp_path / "run", snapshots=2, **SETTINGS)


def test_skipping_goes_on_over_a_restart(tmp_path: Path, poison: None) -> None:
    whole = train_here(tmp_path / "whole", skip=2, **SETTINGS)
    from hpcscale.errors import Preempted

    with pytest.raises(Preempted):  # between the two: one is skipped already
        train_here(tmp_path / "run", skip=2, stop_at=4, **SETTINGS)
    again = train_here(tmp_path / "run", skip=2, **SETTINGS)
    assert [[x[n] for n in SAME] for x in again] == [[x[n] for n in SAME] for x in whole]
    assert told(tmp_path / "run") == told(tmp_path / "whole")
    with pytest.raises(Preempted):
        train_here(tmp_path / "short", skip=1, stop_at=4, **SETTINGS)
    with pytest.raises(TrainingError, match=r"step 5: .* after 1 steps"):
        train_here(tmp_path / "short", skip=1, **SETTINGS)


RANKS = [
    ("torch", 0, 2),
    *(pytest.param("deepspeed", z, 2, marks=pytest.mark.slow) for z in (0, 1, 2, 3)),
]


@pytest.mark.distributed
@pytest.mark.parametrize(("engine", "zero", "world"), RANKS)
def test_one_ranks_bad_row_is_skipped_by_all(
    tmp_path: Path, poison: None, engine: str, zero: int, world: int
) -> None:
    alone = train_here(tmp_path / "alone", skip=2, **SETTINGS)
    words = ",".join(map(str, BAD))
    run = run_ranks(
        tmp_path / "run", world, engine=engine, zero=zero, skip=2, poison=words, **SETTINGS
    )
    assert [x["skipped"] for x in run["lines"]] == [x["skipped"] for x in alone]
    for mine, theirs in zip(run["lines"], alone, strict=True):
        if not mine["skipped"]:
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5), mine["step"]


def guard(tmp_path: Path, precision: str = "fp32", **values: Any) -> Guard:
    def batch_of(step: int) -> dict[str, Any]:
        return {"rows": [step, step + 1]}

    made = Guard(TrainConfig(**values), precision, Ranks(), tmp_path, batch_of)
    made.resume(0, [])
    return made


def test_a_spike_is_written_down_and_nothing_else(tmp_path: Path) -> None:
    with guard(tmp_path, spike_deviations=6) as watching:
        for step in range(1, 61):
            loss = 3 + 0.01 * math.sin(step) + 0.5 * (step == 40)
            assert watching.judge(step, loss, 1.0) is None
    (line,) = told(tmp_path, SPIKES)
    assert line["step"] == 40
    assert line["median"] == pytest.approx(3, abs=0.01)
    assert line["rows"] == [40, 41]


def test_a_loss_scale_that_overflows_is_no_divergence(tmp_path: Path) -> None:
    scaled = guard(tmp_path, "fp16")
    assert scaled.judge(1, 3.0, math.inf) == "overflow"
    assert scaled.judge(2, 3.0, 1.0) is None
    with pytest.raises(TrainingError):
        scaled.judge(3, math.nan, math.inf)
    for step in range(4, 44):
        assert scaled.judge(step, 3.0, math.inf) == "overflow"
    with pytest.raises(TrainingError, match="step 44"):
        scaled.judge(44, 3.0, math.inf)
    with pytest.raises(TrainingError):
        guard(tmp_path, "bf16").judge(1, 3.0, math.inf)


def test_rows_of_the_test_are_of_the_steps_that_it_says() -> None:
    assert [row // 8 + 1 for row in BAD] == [4, 5]
    assert settings_of()["global_batch"] == 8 * LENGTH
