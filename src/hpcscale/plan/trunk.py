"""One trunk for all budgets of a method and seed: `schedule: wsd-branch`.

    to-51.2k ──────> to-102.4k ──────> to-204.8k      trunks/random-s0: constant rate, state kept
        └─ 64k           └─ 128k           └─ 256k    cells: that state, then the decay

A segment is the run of one budget up to where its decay begins; the cell trains the rest. Budgets
of one seed begin with the same documents, so every segment continues from the one before.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpcscale.config.sweep import Cell
from hpcscale.plan.cells import Arm, Branch, selection_task
from hpcscale.plan.graph import AnyTask, Inputs, Task
from hpcscale.plan.kinds import TRUNK
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import TrunkSpec, TrunkTraining
from hpcscale.rundir.layout import TRUNKS
from hpcscale.rundir.trunks import STATE
from hpcscale.units import format_count

#: The segments of one trunk by the tokens at their ends.
Segments = dict[int, Task[TrunkSpec]]


def trunk_segments(shared: Shared, arm: Arm, name: str, seed: int) -> Segments:
    """The segments that the budgets of a method and seed share; none without `wsd-branch`.

    The key of a segment depends neither on the segments before it nor on other budgets, since its
    result is the same wherever the earlier segments end.
    """
    if shared.config.train.schedule != "wsd-branch":
        return {}
    return dict(_segments(shared, arm, name, seed))


def branch_of(shared: Shared, cell: Cell, segments: Segments) -> Branch | None:
    """Where the cell leaves its trunk; None where all of it is trained from the base model."""
    point = shared.config.train.decay_start(cell.budget)
    return Branch(segments[point], point) if point in segments else None


def _segments(
    shared: Shared, arm: Arm, name: str, seed: int
) -> Iterator[tuple[int, Task[TrunkSpec]]]:
    train = shared.config.train
    before: AnyTask | None = None
    reached = 0
    for budget in sorted(shared.config.budgets):
        point = train.decay_start(budget)
        if point == reached:
            continue
        spec = TrunkSpec(
            sequences=shared.sequences,
            training=TrunkTraining(train=train),
            tokens=point,
            seed=seed,
            starts_at=reached,
        )
        inputs: Inputs = {
            "model": (shared.base,),
            "selection": (selection_task(shared, Cell(name, budget, seed), arm),),
            "pool": (shared.pool,),
            **({STATE: (before,)} if before else {}),
        }
        segment = Task(f"{TRUNKS}/{name}-s{seed}/to-{format_count(point)}", TRUNK, spec, inputs)
        yield point, segment
        before, reached = segment, point
