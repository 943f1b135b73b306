"""One cell's training: the base model is trained on the selected documents."""

from __future__ import annotations

from hpcscale.model.build import load_model
from hpcscale.plan.specs import TrainSpec
from hpcscale.rundir.layout import MODEL
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import selected_stream, train_and_save


def run(context: Context[TrainSpec]) -> StepResult:
    stream, facts = selected_stream(context)
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / MODEL)
    with context.deferring():
        return train_and_save(context, model, stream, ranks, facts)
