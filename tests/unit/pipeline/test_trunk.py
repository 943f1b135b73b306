"""Trunks in the graph and in a run directory: shape, keys, tokens, refusals, what is deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.errors import ConfigError
from hpcscale.opened import open_sweep
from hpcscale.plan.graph import Graph, Task
from hpcscale.plan.stages import Pipeline
from hpcscale.plan.trunk import problems, release, segments_behind, trained_tokens, trunk_lines
from hpcscale.preview.checks import check
from hpcscale.preview.cost import estimate
from hpcscale.rundir.records import write_specs
from hpcscale.rundir.state import State, observe
from hpcscale.selection.tracin import Tracin, TracinParams

SWEEP = Path(__file__).parents[3] / "sweeps" / "quickstart.yaml"
BRANCH = ("train.warmup=8k", "train.schedule=wsd-branch")


def build(*overrides: str) -> Graph:
    config = load_sweep(SWEEP, overrides)
    return Pipeline(config, "fp32", lambda spec: spec.corpus, lambda source: None).graph()


def keys(graph: Graph, kind: str) -> dict[str, str]:
    return {task.name: task.key for task in graph if task.kind == kind}


def state_of(task: Task) -> Task | None:
    return next(iter(task.inputs.get("state", ())), None)


def test_a_chain_of_segments_a_method_and_seed_and_a_branch_a_budget() -> None:
    graph = build(*BRANCH)
    segments = {task.name: task for task in graph if task.kind == "trunk"}
    cells = {task.name: task for task in graph if task.kind == "train"}
    assert len(segments) == len(cells) == 2 * 4 * 2
    points = {"64k": 51200, "128k": 102400, "256k": 204800, "512k": 409600}
    before = None
    for budget, point in points.items():
        segment = state_of(cells[f"cells/random-{budget}-s1"])
        assert segment is not None
        assert segment.decides["tokens"] == point
        assert segment.name.startswith("trunks/random-s1/to-")
        assert state_of(segment) == before
        # A segment ends beside the cell of the budget before it.
        assert graph.depth[segment.id] == graph.depth[cells[f"cells/random-{budget}-s1"].id] - 1
        before = segment


def test_a_cell_has_the_key_of_a_run_by_itself() -> None:
    alone = build("train.warmup=8k", "train.schedule=wsd")
    assert keys(build(*BRANCH), "train") == keys(alone, "train")
    assert keys(build(*BRANCH), "pretrain") == keys(alone, "pretrain")
    assert not keys(alone, "trunk")
    assert keys(build(), "train") != keys(alone, "train")


def test_what_a_segment_holds_depends_on_no_other_budget_and_no_decay() -> None:
    before = keys(build(*BRANCH), "trunk")
    more = keys(build(*BRANCH, "budgets=[64k, 96k, 128k, 256k, 512k, 550k]"), "trunk")
    assert before.items() < more.items()
    base = (*BRANCH, "model.pretrain.schedule=cosine", "model.pretrain.min_lr_ratio=0.1")
    before = keys(build(*base), "trunk")
    for free in ("train.decay_shape=linear", "train.min_lr_ratio=0"):
        assert keys(build(*base, free), "trunk") == before
        assert keys(build(*base, free), "train") != keys(build(*base), "train")
    assert keys(build(*BRANCH, "train.lr=2e-3"), "trunk") != before


def test_decays_leave_the_keys_of_other_schedules_alone() -> None:
    for schedule in ("cosine", "constant"):
        given = f"train.schedule={schedule}"
        assert keys(build(given), "train") == keys(build(given, "train.decay=0.5"), "train")


def test_six_budgets_cost_little_more_than_the_largest() -> None:
    budgets = "budgets=[32k, 64k, 128k, 256k, 512k, 1024k]"
    given = (*BRANCH, budgets, "selection=[random]", "seeds=[0]")
    config = load_sweep(SWEEP, given)
    tasks = list(build(*given))
    own = [trained_tokens(t) for t in tasks if t.kind in ("train", "trunk")]
    assert sum(own) <= 1.25 * 1_024_000
    assert estimate(config, tasks, None, "bf16").train_tokens == sum(own) + 256_000
    alone = list(build(*given, "train.schedule=wsd"))
    assert estimate(config, alone, None, "bf16").train_tokens == 2_016_000 + 256_000
    (line,) = trunk_lines(config)
    assert "32k from 24.6k, 64k from 51.2k" in line
    assert f"{sum(own) / 1_024_000:.2f}x the largest budget (runs of their own: 1.97x)" in line
    assert not trunk_lines(load_sweep(SWEEP))


def test_budgets_with_one_branch_point_share_a_segment_and_tiny_ones_have_none() -> None:
    graph = build(*BRANCH, "budgets=[2k, 64k, 64100]", "train.warmup=0", "selection=[random]")
    assert sorted(t.decides["tokens"] for t in graph if t.kind == "trunk") == [51200, 51200]
    cells = {task.name: task for task in graph if task.kind == "train"}
    assert state_of(cells["cells/random-2k-s0"]) is None
    assert state_of(cells["cells/random-64k-s0"]) == state_of(cells["cells/random-64.1k-s0"])


# --- refusals


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"rate": 0.3}, None),
        ({"percentiles": (40, 60)}, None),
        ({"keep": "top"}, "for example `rate: 0.3`"),
        ({}, "for example `rate: 0.3`"),
        ({"temperature": 1.0}, "for example `rate: 0.3`"),
        ({"rate": 0.3, "random": 0.2}, "drop it"),
    ],
)
def test_which_rankings_are_nested(params: dict[str, Any], said: str | None) -> None:
    reason = Tracin(TracinParams(**params)).why_not_nested()
    assert reason is None if said is None else said in str(reason)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["selection.1={name: best, method: tracin}", "data.query.corpus=stdlib",
          "data.query.tokens=20k"], "--set selection.1={name: best, method: tracin}: `schedule"),
        (["train.warmup=60k"], "--set train.warmup=60k: a warm-up of 60k tokens is not over at"),
    ],
)  # fmt: skip
def test_refused_before_anything_starts(tmp_path: Path, overrides: list[str], said: str) -> None:
    sweep = open_sweep(SWEEP, (f"root={tmp_path}", *BRANCH, *overrides), "local")
    with pytest.raises(ConfigError) as caught:
        check(sweep, sweep.plan())
    assert said in str(caught.value)
    assert "or write `train.schedule: wsd`" in str(caught.value)
    assert not list(problems(load_sweep(SWEEP, (*BRANCH, *overrides, "train.schedule=wsd"))))


def test_a_refusal_names_the_line(tmp_path: Path) -> None:
    text = SWEEP.read_text().replace("warmup: 5%", "warmup: 60k, schedule: wsd-branch")
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("train:"))
    sweep = open_sweep(file, (f"root={tmp_path}",), "local")
    with pytest.raises(ConfigError, match=f"sweep.yaml:{line}: a warm-up of 60k"):
        check(sweep, sweep.plan())
    file.write_text(text.replace("60k", "5%"))
    with pytest.raises(ConfigError, match=f"sweep.yaml:{line}: `train.warmup`: `schedule: wsd-b"):
        load_sweep(file)


# --- states on disk


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Path]:
    """Two segments, both with a state, and the first one's cell; nothing is marked as done."""
    first, second = "trunks/random-s0/to-1k-00000000", "trunks/random-s0/to-2k-00000000"
    behind = {first: [], second: [first], "cells/random-2k-s0-00000000": [first]}
    for name, state in behind.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        spec = {"inputs": {"state": [{"id": id_, "key": ""} for id_ in state]}}
        (tmp_path / name / "task.json").write_text(json.dumps(spec))
    names = ("first", "second", "cell")
    return {name: tmp_path / id_ for name, id_ in zip(names, behind, strict=True)}


@pytest.mark.parametrize("order", [("second", "cell"), ("cell", "second")])
def test_a_state_goes_once_branch_and_next_segment_are_done(
    tmp_path: Path, chain: dict[str, Path], order: tuple[str, str]
) -> None:
    (chain["first"] / "done.json").write_text("{}")
    (chain[order[0]] / "done.json").write_text("{}")
    release(tmp_path, chain["first"])
    assert (chain["first"] / "checkpoints").exists()
    (chain[order[1]] / "done.json").write_text("{}")
    release(tmp_path, chain["first"])
    assert not (chain["first"] / "checkpoints").exists()
    assert (chain["first"] / "spent.json").exists()
    assert not (chain["first"] / "done.json").exists()
    release(tmp_path, chain["second"])
    assert (chain["second"] / "checkpoints").exists(), "a larger budget goes on from it"


def test_a_state_waits_for_a_segment_that_is_planned_anew(tmp_path: Path) -> None:
    graph = build(*BRANCH, "selection=[random]", "seeds=[0]", "budgets=[64k, 128k]")
    first, second = (task for task in graph if task.kind == "trunk")
    cells = [task for task in graph if task.kind == "train"]
    # A trunk of an earlier round, whose cells are lost: all of it is planned again.
    for task, marker in ((first, "spent.json"), (second, "spent.json")):
        (tmp_path / task.id).mkdir(parents=True)
        (tmp_path / task.id / marker).write_text("{}")
    write_specs(tmp_path, [first, second, *cells])
    (tmp_path / first.id / "checkpoints").mkdir()
    for task in (first, cells[0]):
        (tmp_path / task.id / "done.json").write_text("{}")
    release(tmp_path, tmp_path / first.id)
    assert (tmp_path / first.id / "done.json").exists()
    (tmp_path / second.id / "done.json").write_text("{}")
    release(tmp_path, tmp_path / first.id)
    assert (tmp_path / first.id / "spent.json").exists()


def test_segments_behind_a_cell(tmp_path: Path, chain: dict[str, Path]) -> None:
    spec = {"inputs": {"state": [{"id": "trunks/random-s0/to-2k-00000000", "key": ""}]}}
    assert list(segments_behind(tmp_path, spec)) == [
        str(chain[name].relative_to(tmp_path)) for name in ("second", "first")
    ]
    assert not list(segments_behind(tmp_path, {"inputs": {}}))


def test_what_is_spent_is_neither_wanted_nor_done(tmp_path: Path) -> None:
    graph = build(*BRANCH, "selection=[random]", "seeds=[0]", "budgets=[64k, 128k]")
    segment = next(task for task in graph if task.kind == "trunk")
    (tmp_path / segment.id).mkdir(parents=True)
    (tmp_path / segment.id / "spent.json").write_text("{}")
    assert observe(tmp_path, graph)[segment.id].state is State.SPENT
    done = {task.id for task in graph if task.kind in ("train", "evaluate")}
    assert segment not in graph.needed(done)
    last = [task for task in graph if task.kind == "evaluate"][-1]
    lost = done - {last.id, last.inputs["model"][0].id}
    assert segment in graph.needed(lost), "a cell that is lost is made again from the base model on"
