from __future__ import annotations

import time

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.plan.array_tasks import group
from hpcscale.plan.build import SweepTasks
from hpcscale.plan.graph import Graph, Task
from hpcscale.plan.kinds import KINDS, MERGE_PERPLEXITY, PERPLEXITY, SELECT, TRAIN
from planning import QUICKSTART, keys, plan_of, some_task


def build(*overrides: str) -> SweepTasks:
    return plan_of(QUICKSTART, *overrides)


def test_every_task_stands_behind_its_inputs() -> None:
    tasks = build()
    seen: set[str] = set()
    for task in tasks.every():
        assert {above.id for above in (*task.upstream(), *task.after)} <= seen
        seen.add(task.id)
    assert len(tasks.cells) == len(list(load_sweep(QUICKSTART).cells()))


def test_keys_do_not_move_between_calls() -> None:
    assert [task.key for task in build().every()] == [task.key for task in build().every()]


@pytest.mark.parametrize(
    "free",
    [
        "train.micro_batch=4",
        "train.engine=deepspeed",
        "train.zero=3",
        "resources.train.time=9h",
        "resources.train.ranks=2",
        "root=elsewhere",
        "train.checkpoint.every=1m",
        "train.compile=true",
        "evaluate.micro_batch=1",
        "resources.site=generic",
        "name=other",
    ],
)
def test_what_changes_no_result_changes_no_key(free: str) -> None:
    assert {t.key for t in build().every()} == {t.key for t in build(free).every()}


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
    before, after = build().graph, build(override).graph
    for name in changed:
        ours, theirs = keys(before, KINDS[name]), keys(after, KINDS[name])
        assert any(ours[task] != theirs[task] for task in ours), name
    for name in kept:
        assert keys(before, KINDS[name]) == keys(after, KINDS[name]), name


def test_a_new_budget_leaves_every_other_cell_as_it_is() -> None:
    before = keys(build().graph, TRAIN)
    after = keys(build("budgets=[64k, 128k, 256k, 512k, 550k]").graph, TRAIN)
    assert before.items() < after.items()


def test_shards_do_not_move_what_is_made_from_them() -> None:
    one, many = build().graph, build("resources.score.shards=5").graph
    assert len(keys(many, PERPLEXITY)) == 5
    assert keys(one, MERGE_PERPLEXITY) == keys(many, MERGE_PERPLEXITY)
    assert keys(one, TRAIN) == keys(many, TRAIN)


def test_only_what_is_missing_is_needed() -> None:
    tasks = build()
    graph = tasks.graph
    everything = {task.id for task in graph}
    assert graph.needed(everything) == []
    assert [task.id for task in graph.needed(set())] == list(graph.tasks)
    cell = tasks.cells[0]
    assert [t.id for t in graph.needed(everything - {cell.id})] == [cell.id]
    # A lost input of what is already there need not be made again.
    score = next(task for task in graph if task.kind is PERPLEXITY)
    assert graph.needed(everything - {score.id}) == []


def test_a_task_file_is_all_that_a_worker_needs() -> None:
    for task in build().graph:
        file = task.file()
        assert file.id == task.id
        assert file.id.endswith(file.key[:8])
        assert {i.id for found in file.inputs.values() for i in found} == {
            above.id for above in task.upstream()
        }


def test_a_thousand_cells_are_planned_in_moments() -> None:
    started = time.perf_counter()
    tasks = build("budgets={geomspace: [1k, 900k, 100]}", "seeds=[0, 1, 2, 3, 4]")
    assert len(tasks.cells) == 1000
    [task.key for task in tasks.graph]
    group(tasks.graph)
    assert time.perf_counter() - started < 5


def test_two_tasks_of_one_identity_are_one() -> None:
    one = some_task(SELECT)
    free = one.spec.model_copy(update={"cell": "another label"})
    same = Task(one.name, SELECT, free, one.inputs)
    other = Task(one.name, SELECT, one.spec.model_copy(update={"seed": 99}), one.inputs)
    assert same == one
    assert len([t for t in Graph([one, same, other]) if t.kind is SELECT]) == 2


def test_the_analysis_follows_every_task_at_a_fixed_place() -> None:
    tasks = build()
    assert tasks.analysis.id == "analysis"
    assert set(tasks.analysis.after) == set(tasks.graph)
    assert tasks.depth["analysis"] == 1 + max(tasks.graph.depth.values())
    more = build("seeds=[0, 1, 2]").analysis
    assert more.id == tasks.analysis.id
    assert more.key != tasks.analysis.key


def test_the_base_model_is_evaluated_in_its_own_stage() -> None:
    tasks = build()
    assert tasks.base.stage == "base"
    assert {cell.stage for cell in tasks.cells} == {"train"}
