"""Trunks in the graph: shape, keys and tokens."""

from __future__ import annotations

from hpcscale.config.load import load_sweep
from hpcscale.plan.graph import AnyTask, Graph
from hpcscale.plan.kinds import PRETRAIN, TRAIN, TRUNK
from hpcscale.preview.cost import estimate, trained_tokens
from planning import QUICKSTART, keys, of_kind, plan_of

BRANCH = ("train.warmup=8k", "train.schedule=wsd-branch")


def build(*overrides: str) -> Graph:
    return plan_of(QUICKSTART, *overrides).graph


def state_of(task: AnyTask) -> AnyTask | None:
    return next(iter(task.inputs.get("state", ())), None)


def test_a_chain_of_segments_a_method_and_seed_and_a_branch_a_budget() -> None:
    graph = build(*BRANCH)
    segments, cells = of_kind(graph, TRUNK), of_kind(graph, TRAIN)
    assert len(segments) == len(cells) == 2 * 4 * 2
    points = {"64k": 51200, "128k": 102400, "256k": 204800, "512k": 409600}
    before, reached = None, 0
    for budget, point in points.items():
        cell = cells[f"cells/random-{budget}-s1"]
        segment = state_of(cell)
        assert segment is not None
        assert (segment.spec.starts_at, segment.spec.tokens) == (reached, point)
        assert cell.spec.starts_at == point
        assert segment.name.startswith("trunks/random-s1/to-")
        assert state_of(segment) == before
        # A segment ends beside the cell of the budget before it.
        assert graph.depth[segment.id] == graph.depth[cell.id] - 1
        before, reached = segment, point


def test_a_cell_has_the_key_of_a_run_by_itself() -> None:
    alone = build("train.warmup=8k", "train.schedule=wsd")
    assert keys(build(*BRANCH), TRAIN) == keys(alone, TRAIN)
    assert keys(build(*BRANCH), PRETRAIN) == keys(alone, PRETRAIN)
    assert not keys(alone, TRUNK)
    assert keys(build(), TRAIN) != keys(alone, TRAIN)


def test_what_a_segment_holds_depends_on_no_other_budget_and_no_decay() -> None:
    before = keys(build(*BRANCH), TRUNK)
    more = keys(build(*BRANCH, "budgets=[64k, 96k, 128k, 256k, 512k, 550k]"), TRUNK)
    assert before.items() < more.items()
    base = (*BRANCH, "model.pretrain.schedule=cosine", "model.pretrain.min_lr_ratio=0.1")
    before = keys(build(*base), TRUNK)
    for free in ("train.decay_shape=linear", "train.min_lr_ratio=0"):
        assert keys(build(*base, free), TRUNK) == before
        assert keys(build(*base, free), TRAIN) != keys(build(*base), TRAIN)
    assert keys(build(*BRANCH, "train.lr=2e-3"), TRUNK) != before


def test_decays_leave_the_keys_of_other_schedules_alone() -> None:
    for schedule in ("cosine", "constant"):
        given = f"train.schedule={schedule}"
        assert keys(build(given), TRAIN) == keys(build(given, "train.decay=0.5"), TRAIN)


def test_six_budgets_cost_little_more_than_the_largest() -> None:
    budgets = "budgets=[32k, 64k, 128k, 256k, 512k, 1024k]"
    given = (*BRANCH, budgets, "selection=[random]", "seeds=[0]")
    config = load_sweep(QUICKSTART, given)
    tasks = list(build(*given))
    own = sum(trained_tokens(t.spec) for t in tasks if t.kind in (TRAIN, TRUNK))
    assert own <= 1.25 * 1_024_000
    assert estimate(config, tasks, None, "bf16").train_tokens == own + 256_000
    alone = list(build(*given, "train.schedule=wsd"))
    assert estimate(config, alone, None, "bf16").train_tokens == 2_016_000 + 256_000


def test_budgets_with_one_branch_point_share_a_segment_and_tiny_ones_have_none() -> None:
    graph = build(*BRANCH, "budgets=[2k, 64k, 64100]", "train.warmup=0", "selection=[random]")
    assert [task.spec.tokens for task in of_kind(graph, TRUNK).values()] == [51200, 51200]
    cells = of_kind(graph, TRAIN)
    assert state_of(cells["cells/random-2k-s0"]) is None
    assert cells["cells/random-2k-s0"].spec.starts_at is None
    assert state_of(cells["cells/random-64k-s0"]) == state_of(cells["cells/random-64.1k-s0"])
