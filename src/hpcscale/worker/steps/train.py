"""One cell's training: the base model goes on, on the selected documents."""

from __future__ import annotations

from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import selected_stream, train_and_save


def run(context: Context) -> StepResult:
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks

    stream, facts = selected_stream(context)
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / "model")
    with context.deferring():
        return train_and_save(context, model, stream, context.decides["seed"], ranks, facts)
