"""The candidate pool without the documents that a filter drops."""

from __future__ import annotations

import numpy as np

from hpcscale.config.data import FilterConfig
from hpcscale.data.pool_filter import Pool, load_filter, write_part
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import load_tokenizer
from hpcscale.errors import DataError, TaskError
from hpcscale.plan.specs import FilterSpec
from hpcscale.rundir.layout import STORE, TOKENIZER
from hpcscale.worker.context import Context, StepResult


def run(context: Context[FilterSpec]) -> StepResult:
    spec, out = context.spec, context.directory / STORE
    chosen = load_filter(FilterConfig(filter=spec.filter, **spec.filter_params))
    if chosen.version != spec.filter_version:
        raise TaskError(
            f"filter `{spec.filter}` has version {chosen.version} here and {spec.filter_version} "
            "where the sweep was planned; install one version on all machines"
        )
    store = TokenStore.open(context.input("pool") / STORE)
    tokenizer = load_tokenizer(context.input("tokenizer") / TOKENIZER)
    pool = Pool(
        ids=store.ids,
        lengths=store.lengths,
        domains=[store.domain_names[code] for code in store.domains],
        text=lambda row: tokenizer.decode(store.tokens(row)[:-1].tolist()),
        tokens=lambda row: store.tokens(row).astype(np.int64),
        progress=lambda done, total: context.progress(done, total, "documents"),
    )
    keep = np.asarray(chosen.keep(pool))
    if keep.shape != (len(pool),) or keep.dtype != np.bool_:
        raise TaskError(
            f"filter `{spec.filter}` returned {keep.dtype} {keep.shape} for {len(pool)} "
            "documents; `keep` must return True or False for each"
        )
    if not keep.any():
        raise DataError(
            f"filter `{spec.filter}` drops every document of the pool; change its parameters, or "
            "remove it from data.filters"
        )
    manifest = write_part(store, keep, out, spec.filter)
    facts = {"counts": manifest["counts"], "dropped_documents": int((~keep).sum())}
    return StepResult([f"{STORE}/{f.name}" for f in out.iterdir()], facts)
