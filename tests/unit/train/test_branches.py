"""Warm-up, stable, decay; and runs that leave a shared trunk, against runs by themselves."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.train import TrainConfig
from hpcscale.train.schedule import Schedule, step_rates
from hpcscale.train.tag_files import tags_in
from training import make_store, run_ranks, train_here

#: A global batch is 128 tokens: decays begin behind steps 5, 10 and 21.
BUDGETS = {900: 5, 1700: 10, 3400: 21}
WSD = {"schedule": "wsd", "warmup": "256", "every_steps": 3}


def config(**given: Any) -> TrainConfig:
    return TrainConfig(**{"lr": 1e-3, "schedule": "wsd", "warmup": 0, "global_batch": 100} | given)


@pytest.mark.parametrize("decay", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("budget", [100, 150, 1000, 1010, 7777, 10**6])
def test_a_decay_begins_at_a_steps_end_and_takes_its_share(decay: float, budget: int) -> None:
    start = config(decay=decay).decay_start(budget)
    assert start % 100 == 0
    assert budget - start >= decay * budget * (1 - 1e-12)
    assert budget - (start + 100) < decay * budget


def test_rates_of_a_decay_by_its_shape() -> None:
    root = Schedule.of(config(min_lr_ratio=0.1, warmup=200), 1000)
    assert [root.lr(t) for t in (100, 200, 500, 800)] == [5e-4, 1e-3, 1e-3, 1e-3]
    assert root.lr(900) == pytest.approx(1e-3 * (0.1 + 0.9 * (1 - math.sqrt(0.5))))
    assert root.lr(1000) == pytest.approx(1e-4)
    line = Schedule.of(config(decay_shape="linear", min_lr_ratio=0), 1000)
    assert [line.lr(t) for t in (850, 900, 1000)] == pytest.approx([7.5e-4, 5e-4, 0])


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 1 / 3, 0.7])
def test_budgets_have_the_same_rates_up_to_the_first_decay(ratio: float) -> None:
    settings = config(warmup=300, min_lr_ratio=ratio, schedule="wsd-branch")
    small, large = (step_rates(settings, tokens) for tokens in (2000, 4000))
    held = settings.decay_start(2000) // 100
    assert small[:held] == large[:held]
    assert small[held] < large[held] == large[held - 1] == 1e-3


def test_a_branching_warm_up_is_in_tokens() -> None:
    with pytest.raises(ValueError, match=r"write tokens, for example `warmup: 100k`"):
        TrainConfig(schedule="wsd-branch", warmup="5%")
    with pytest.raises(ValueError, match="5% is another number of tokens"):
        TrainConfig(schedule="wsd-branch")
    assert TrainConfig(schedule="wsd-branch", warmup="0").warmup_tokens(10**6) == 0


# --- runs


def curve(lines: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [
        (line["step"], line["tokens"], line["loss"], line["lr"], line["grad_norm"])
        for line in lines
    ]


def last_tag(out: Path) -> Path:
    return out / "checkpoints" / tags_in(out / "checkpoints")[-1]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("rank-*")}


def test_branches_of_a_trunk_are_runs_by_themselves_bit_for_bit(tmp_path: Path) -> None:
    make_store(tmp_path / "store", documents=300)
    trunk: dict[str, Any] = {}
    for budget, steps in BUDGETS.items():
        alone = train_here(tmp_path / f"alone-{budget}", tokens=budget, **WSD)
        segment = tmp_path / f"segment-{budget}"
        before = train_here(
            segment, tokens=budget, steps=steps, key=f"trunk-{budget}", **WSD, **trunk
        )
        trunk = {"trunk": last_tag(segment)}
        assert last_tag(segment).name == f"step-{steps:08d}"
        branch = train_here(tmp_path / f"branch-{budget}", tokens=budget, **WSD, **trunk)
        assert curve(branch) == curve(alone)[steps:]
        assert curve(before) == curve(alone)[steps - len(before) : steps]
        # The last states hold weights and both moments.
        assert (
            last_tag(tmp_path / f"branch-{budget}").name
            == last_tag(tmp_path / f"alone-{budget}").name
        )
        ours, theirs = (
            digests(last_tag(tmp_path / f"{run}-{budget}")) for run in ("branch", "alone")
        )
        assert ours
        assert ours == theirs


def test_a_branch_and_a_segment_that_were_stopped_go_on(tmp_path: Path) -> None:
    from hpcscale.errors import Preempted

    make_store(tmp_path / "store", documents=300)
    alone = train_here(tmp_path / "alone", tokens=1700, **WSD)
    with pytest.raises(Preempted):
        train_here(tmp_path / "segment", tokens=1700, steps=10, stop_at=7, **WSD)
    train_here(tmp_path / "segment", tokens=1700, steps=10, **WSD)
    given = {"tokens": 1700, "trunk": last_tag(tmp_path / "segment"), "key": "cell", **WSD}
    with pytest.raises(Preempted):
        train_here(tmp_path / "branch", stop_at=2, **given)
    # From its own state by now: the trunk's is not asked for again.
    shutil.rmtree(tmp_path / "segment")
    assert curve(train_here(tmp_path / "branch", **given)) == curve(alone)[10:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "engine"),
    [
        (1, {"engine": "deepspeed", "zero": 1}),
        (2, {"engine": "deepspeed", "zero": 1}),
        (2, {"engine": "torch"}),
    ],
)
def test_on_other_engines_and_ranks(tmp_path: Path, world: int, engine: dict[str, Any]) -> None:
    make_store(tmp_path / "store", documents=300)
    given = {"tokens": 1700, **WSD, **engine}
    alone = run_ranks(tmp_path / "alone", world, **given)
    run_ranks(tmp_path / "first", world, **{**given, "tokens": 900}, steps=5)
    first = last_tag(tmp_path / "first")
    run_ranks(tmp_path / "second", world, **given, steps=10, trunk=first)
    branch = run_ranks(tmp_path / "branch", world, **given, trunk=last_tag(tmp_path / "second"))
    assert curve(branch["lines"]) == curve(alone["lines"])[10:]
    weights = [
        (tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("alone", "branch")
    ]
    assert weights[0] == weights[1]
