"""Which tasks share processes, and which arrays they form."""

from __future__ import annotations

from hpcscale.config.resources import Resources, StageName
from hpcscale.plan.array_tasks import Array, arrays, group
from hpcscale.plan.build import SweepTasks
from hpcscale.plan.kinds import PERPLEXITY, SELECT, TRAIN
from planning import QUICKSTART, of_kind, plan_of


def arrays_of(tasks: SweepTasks) -> list[Array]:
    def resources(stage: StageName) -> Resources:
        return Resources(ranks=2 if stage == "train" else 1)

    return arrays(tasks.every(), tasks.depth, resources)


def test_a_cell_is_trained_and_evaluated_by_one_process() -> None:
    tasks = plan_of(QUICKSTART)
    chains = [[task.kind.name for task in one.tasks] for one in group(tasks.graph)]
    assert chains.count(["train", "evaluate"]) == len(tasks.cells)
    assert ["pretrain", "evaluate"] in chains
    assert sum(len(chain) for chain in chains) == len(tasks.graph.tasks)


def test_an_evaluation_whose_cell_is_done_stands_alone() -> None:
    (*_, cell) = plan_of(QUICKSTART).cells
    (alone,) = group([cell])
    assert alone.ids == [cell.id]
    assert {above.id for above in cell.upstream()} == alone.reads()


def test_light_tasks_share_a_process_only_where_they_wait_for_the_same() -> None:
    bundles = [one for one in group(plan_of(QUICKSTART).graph) if one.tasks[0].kind is SELECT]
    assert len(bundles) == 2
    random, perplexity = sorted(bundles, key=lambda one: len(one.reads()))
    assert not any("scores" in name for name in random.reads())
    assert any("scores" in name for name in perplexity.reads())


def test_a_bundle_is_as_large_as_its_kind_says() -> None:
    tasks = plan_of(QUICKSTART, "budgets={geomspace: [1k, 900k, 100]}", "selection=[random]")
    cells = len(tasks.cells)
    sizes = [len(one.tasks) for one in group(tasks.graph) if one.tasks[0].kind is SELECT]
    assert sizes == [SELECT.bundle] * (cells // SELECT.bundle) + [cells % SELECT.bundle]


def test_arrays_stand_behind_those_that_they_wait_for() -> None:
    tasks = plan_of(QUICKSTART, "train.warmup=8k", "train.schedule=wsd-branch")
    seen: set[str] = set()
    for array in arrays_of(tasks):
        assert array.waits_for() <= seen
        seen.update(name for ids in array.payloads for name in ids)
    assert seen == {task.id for task in tasks.every()}


def test_cells_are_one_array_of_the_resources_of_their_stage() -> None:
    tasks = plan_of(QUICKSTART, "resources.score.shards=3", "selection=[random]")
    found = arrays_of(tasks)
    assert [array.stage for array in found].count("train") == 1
    (cells,) = (array for array in found if array.stage == "train")
    assert len(cells.payloads) == len(of_kind(tasks.graph, TRAIN))
    assert cells.resources.ranks == 2
    shards = plan_of(QUICKSTART, "resources.score.shards=3")
    (scores,) = (array for array in arrays_of(shards) if array.stage == "score")
    assert len(scores.payloads) == len(of_kind(shards.graph, PERPLEXITY)) == 3


def test_the_analysis_waits_for_every_task_and_reads_none() -> None:
    tasks = plan_of(QUICKSTART)
    *_, last = arrays_of(tasks)
    assert last.payloads == [["analysis"]]
    assert last.array_tasks[0].reads() == set()
    assert last.waits_for() == {task.id for task in tasks.graph}
