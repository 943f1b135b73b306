"""A role's documents as a token store."""

from __future__ import annotations

import os

from hpcscale.data.store import build_store
from hpcscale.data.tokenizer import load_tokenizer
from hpcscale.plan.specs import StoreSpec
from hpcscale.rundir.layout import STORE, TOKENIZER
from hpcscale.worker.context import Context, StepResult


def run(context: Context[StoreSpec]) -> StepResult:
    spec, out = context.spec, context.directory / STORE
    manifest = build_store(
        spec.corpus,
        spec.role,
        spec.documents.range,
        load_tokenizer(context.input("tokenizer") / TOKENIZER),
        out,
        exclude=[path / STORE for path in context.inputs("exclude")],
        max_broken=spec.max_broken,
        workers=len(os.sched_getaffinity(0)),
        progress=lambda done, total: context.progress(done, total, "tokens"),
        cut=spec.cut,
    )
    return StepResult([f"{STORE}/{f.name}" for f in out.iterdir()], {"counts": manifest["counts"]})
