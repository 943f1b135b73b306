from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.array_tasks import group
from hpcscale.plan.graph import Graph, Task
from hpcscale.plan.stages import Pipeline, cell_tasks

SWEEP = Path(__file__).parents[3] / "sweeps" / "quickstart.yaml"


def build(*overrides: str, shards: int = 1) -> tuple[SweepConfig, Graph]:
    config = load_sweep(SWEEP, overrides)
    pipeline = Pipeline(
        config, "fp32", lambda spec: spec.corpus, lambda source: None, score_shards=shards
    )
    return config, pipeline.graph()


def keys(graph: Graph, kind: str) -> dict[str, str]:
    return {task.name: task.key for task in graph if task.kind == kind}


def test_every_task_stands_behind_its_inputs() -> None:
    config, graph = build()
    seen: set[str] = set()
    for task in graph:
        assert {above.id for above in task.upstream()} <= seen
        seen.add(task.id)
    assert len(cell_tasks(graph)) == len(list(config.cells()))


def test_keys_do_not_move_between_calls() -> None:
    assert [task.key for task in build()[1]] == [task.key for task in build()[1]]


@pytest.mark.parametrize(
    "free",
    ["train.micro_batch=4", "train.engine=deepspeed", "train.zero=3", "resources.train.time=9h",
     "resources.train.ranks=2", "root=elsewhere", "train.checkpoint.every=1m",
     "train.compile=true", "evaluate.micro_batch=1", "resources.site=generic", "name=other"],
)  # fmt: skip
def test_what_changes_no_result_changes_no_key(free: str) -> None:
    assert {t.key for t in build()[1]} == {t.key for t in build(free)[1]}


@pytest.mark.parametrize(
    ("override", "changed", "kept"),
    [
        ("train.lr=5e-4", {"train", "evaluate"}, {"store", "select", "tokenizer", "pretrain"}),
        ("train.clip=0.5", {"train", "pretrain", "perplexity"}, {"store"}),
        ("data.eval.tokens=50k", {"evaluate"}, {"train", "pretrain", "select", "perplexity"}),
        ("data.pool.tokens=900k", {"select", "train", "perplexity"}, {"pretrain", "tokenizer"}),
        ("tokenizer.train=2000", {"store", "pretrain", "train"}, set()),
        ("data.packing=isolate", {"train", "pretrain", "evaluate"}, {"store"}),
    ],
)
def test_what_decides_a_result_changes_its_key_and_those_behind_it(
    override: str, changed: set[str], kept: set[str]
) -> None:
    before, after = build()[1], build(override)[1]
    for kind in changed:
        ours, theirs = keys(before, kind), keys(after, kind)
        assert any(ours[name] != theirs[name] for name in ours), kind
    for kind in kept:
        assert keys(before, kind) == keys(after, kind), kind


def test_a_new_budget_leaves_every_other_cell_as_it_is() -> None:
    before = keys(build()[1], "train")
    after = keys(build("budgets=[64k, 128k, 256k, 512k, 550k]")[1], "train")
    assert before.items() < after.items()


def test_shards_do_not_move_what_is_made_from_them() -> None:
    one, many = build()[1], build(shards=5)[1]
    assert len(keys(many, "perplexity")) == 5
    assert keys(one, "merge") == keys(many, "merge")
    assert keys(one, "train") == keys(many, "train")


def test_only_what_is_missing_is_needed() -> None:
    graph = build()[1]
    everything = {task.id for task in graph}
    assert graph.needed(everything) == []
    assert [task.id for task in graph.needed(set())] == list(graph.tasks)
    cell = cell_tasks(graph)[0]
    assert [t.id for t in graph.needed(everything - {cell.id})] == [cell.id]
    # A lost input of what is already there need not be made again.
    score = next(task for task in graph if task.kind == "perplexity")
    assert graph.needed(everything - {score.id}) == []


def test_a_cell_is_trained_and_evaluated_by_one_process() -> None:
    graph = build()[1]
    elements = group(graph)
    chains = [[task.kind for task in element.tasks] for element in elements]
    assert chains.count(["train", "evaluate"]) == len(cell_tasks(graph))
    assert ["pretrain", "evaluate"] in chains
    assert sum(len(chain) for chain in chains) == len(graph.tasks)


def test_light_tasks_share_a_process_only_where_they_wait_for_the_same() -> None:
    graph = build()[1]
    bundles = [e for e in group(graph) if e.tasks[0].kind == "select"]
    assert len(bundles) == 2
    random, perplexity = sorted(bundles, key=lambda e: len(e.waits_for()))
    assert not any("scores" in name for name in random.waits_for())
    assert any("scores" in name for name in perplexity.waits_for())


def test_a_spec_is_all_that_a_worker_needs() -> None:
    import json

    for task in build()[1]:
        spec: dict[str, Any] = json.loads(json.dumps(task.spec()))
        assert spec["id"] == task.id
        assert spec["id"].endswith(spec["key"][:8])


def test_a_thousand_cells_are_planned_in_moments() -> None:
    import time

    started = time.perf_counter()
    graph = build("budgets={geomspace: [1k, 900k, 100]}", "seeds=[0, 1, 2, 3, 4]")[1]
    assert len(cell_tasks(graph)) == 1000
    [task.key for task in graph]
    group(graph)
    assert time.perf_counter() - started < 5


def test_two_tasks_of_one_identity_are_one() -> None:
    one = Task("a", "select", "select", {"x": 1})
    same = Task("a", "select", "select", {"x": 1}, params={"free": 2})
    assert len(Graph([one, same]).tasks) == 1
