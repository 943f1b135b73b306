"""A model from the hub or a local directory, brought into the run directory."""

from __future__ import annotations

from hpcscale.model.build import load_model, save_model
from hpcscale.plan.specs import FetchSpec
from hpcscale.rundir.layout import MODEL, PROBED
from hpcscale.worker.context import Context, StepResult


def run(context: Context[FetchSpec]) -> StepResult:
    model = load_model(context.spec.source, context.spec.revision)
    out = context.directory / MODEL
    save_model(model, out)
    parameters = sum(p.numel() for p in model.parameters())
    # Copies of earlier versions, which loaded models that are refused now, do not have this fact.
    facts = {"parameters": parameters, PROBED: True}
    return StepResult([f"{MODEL}/{f.name}" for f in out.iterdir()], facts)
