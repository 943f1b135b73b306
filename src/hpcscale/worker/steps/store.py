"""A role's documents as a token store."""

from __future__ import annotations

import os

from hpcscale.config.data import CorpusConfig
from hpcscale.worker.context import Context, StepResult

STORE = "store"


def run(context: Context) -> StepResult:
    from hpcscale.data.store import build_store
    from hpcscale.data.tokenizer import load_tokenizer

    decides, params = context.decides, context.params
    out = context.directory / STORE
    low, high = decides["range"]
    manifest = build_store(
        CorpusConfig(**params["corpus"]),
        decides["role"],
        (low, high),
        load_tokenizer(context.input("tokenizer") / "tokenizer"),
        out,
        exclude=[path / STORE for path in context.inputs("exclude")],
        max_broken=decides["max_broken"],
        workers=len(os.sched_getaffinity(0)),
        progress=lambda done, total: context.progress(done, total, "tokens"),
        cut=params["cut"],
    )
    return StepResult([f"{STORE}/{f.name}" for f in out.iterdir()], {"counts": manifest["counts"]})
