"""The tasks of one cell: its selection, its training and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcscale.config.sweep import Cell
from hpcscale.plan.graph import AnyTask, Task
from hpcscale.plan.kinds import EVALUATE, PRETRAIN, SELECT, TRAIN
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import CellLabel, EvaluateSpec, SelectSpec, Training, TrainSpec
from hpcscale.rundir.layout import CELLS, EVALUATIONS, SELECTIONS
from hpcscale.rundir.trunks import STATE
from hpcscale.selection.method import SelectionMethod


@dataclass(frozen=True)
class Arm:
    """A selection method of the sweep, and the task of the scores that it reads, if any."""

    method: SelectionMethod
    scores: AnyTask | None


@dataclass(frozen=True)
class Branch:
    """Where a cell leaves a trunk: the segment that ends there, and the tokens trained so far."""

    segment: AnyTask
    starts_at: int


def selection_task(shared: Shared, cell: Cell, arm: Arm) -> Task[SelectSpec]:
    """The task that selects the documents that the cell trains on."""
    config = shared.config.method(cell.method)
    spec = SelectSpec(
        method=config.method,
        method_params=arm.method.params.deciding(),
        method_version=arm.method.version,
        budget=cell.budget,
        seed=cell.seed,
        epochs=shared.config.train.epochs,
        cell=cell.name,
        config=config,
    )
    scores = {} if arm.scores is None else {"scores": (arm.scores,)}
    inputs = {"pool": (shared.pool,), **scores, "tokenizer": (shared.tokenizer,)}
    return Task(f"{SELECTIONS}/{cell.name}", SELECT, spec, inputs)


def cell_task(shared: Shared, cell: Cell, arm: Arm, branch: Branch | None) -> Task[EvaluateSpec]:
    """The evaluation of a cell; it depends on all other tasks of the cell."""
    spec = TrainSpec(
        sequences=shared.sequences,
        training=Training(train=shared.config.train),
        budget=cell.budget,
        seed=cell.seed,
        cell=cell.name,
        starts_at=branch.starts_at if branch else None,
    )
    inputs: Mapping[str, tuple[AnyTask, ...]] = {
        "model": (shared.base,),
        "selection": (selection_task(shared, cell, arm),),
        "pool": (shared.pool,),
        "tokenizer": (shared.tokenizer,),
        **({STATE: (branch.segment,)} if branch else {}),
    }
    train = Task(f"{CELLS}/{cell.name}", TRAIN, spec, inputs)
    label = CellLabel(method=cell.method, budget=cell.budget, seed=cell.seed)
    return _evaluation(shared, f"{EVALUATIONS}/{cell.name}", train, label)


def base_evaluation(shared: Shared) -> Task[EvaluateSpec]:
    """The evaluation of the base model, which every cell is compared with."""
    return _evaluation(shared, "base/evaluation", shared.base, None)


def _evaluation(
    shared: Shared, name: str, model: AnyTask, cell: CellLabel | None
) -> Task[EvaluateSpec]:
    spec = EvaluateSpec(
        sequences=shared.sequences,
        cell=cell,
        tokenizer=shared.tokenizer.id if cell is None else None,
        micro_batch=shared.config.evaluate.micro_batch,
    )
    return Task(
        name,
        EVALUATE,
        spec,
        {"model": (model,), "store": (shared.stores["eval"],)},
        follows=model if model.kind in (TRAIN, PRETRAIN) else None,
        runs_in="base" if cell is None else "train",
    )
