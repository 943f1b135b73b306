"""A segment of a trunk: from one branch point to the next, at the rate before any decay."""

from __future__ import annotations

from hpcscale.model.build import load_model
from hpcscale.plan.specs import TrunkSpec
from hpcscale.rundir.layout import MODEL
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import selected_stream, train_segment


def run(context: Context[TrunkSpec]) -> StepResult:
    stream, _ = selected_stream(context)
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / MODEL)
    with context.deferring():
        return train_segment(context, model, stream, ranks)
