"""Which documents one cell trains on: the method's order, cut at the budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hpcscale.atomic import write_json
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import load_tokenizer
from hpcscale.plan.specs import SelectSpec
from hpcscale.rundir.layout import SCORES, SELECTION, SELECTION_SUMMARY, STORE, TOKENIZER
from hpcscale.selection.budget import fill_budget, write_selection
from hpcscale.selection.method import Candidates
from hpcscale.selection.registry import load_method
from hpcscale.worker.context import Context, StepResult


def run(context: Context[SelectSpec]) -> StepResult:
    spec = context.spec
    store = TokenStore.open(context.input("pool") / STORE)
    tokenizer = load_tokenizer(context.input("tokenizer") / TOKENIZER)
    candidates = Candidates(
        ids=store.ids,
        lengths=store.lengths,
        domains=store.domains,
        domain_names=tuple(store.domain_names),
        scores=_scores(context),
        text=lambda row: tokenizer.decode(store.tokens(row)[:-1].tolist()),
    )
    kept = load_method(spec.config).keep(candidates, spec.budget, spec.seed)
    selection = fill_budget(
        kept, store.ids, store.lengths, spec.budget, spec.seed, spec.epochs, f"cell {spec.cell}"
    )
    write_selection(context.directory / SELECTION, selection, store.ids)
    summary = {
        "selected_tokens": selection.n_tokens,
        "unique_tokens": selection.unique_tokens,
        "documents": len(selection.positions),
        "epochs": int(selection.epoch[-1]) + 1,
        "kept_documents": len(kept),
        "kept_tokens": int(store.lengths[kept].sum()),
    }
    write_json(context.directory / SELECTION_SUMMARY, summary)
    return StepResult([SELECTION, SELECTION_SUMMARY], summary)


def _scores(context: Context[SelectSpec]) -> npt.NDArray[np.float64] | None:
    if not context.file.input_ids("scores"):
        return None
    table = pq.read_table(context.input("scores") / SCORES, columns=["score"])
    scores: npt.NDArray[np.float64] = table["score"].to_numpy()
    return scores
