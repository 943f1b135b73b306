"""Which documents one cell trains on: the method's order, cut at the budget."""

from __future__ import annotations

from hpcscale.atomic import write_json
from hpcscale.config.sweep import MethodConfig
from hpcscale.worker.context import Context, StepResult

SELECTION = "selection.parquet"
SUMMARY = "selection.json"


def run(context: Context) -> StepResult:
    from hpcscale.data.store import TokenStore
    from hpcscale.data.tokenizer import load_tokenizer
    from hpcscale.selection.budget import fill_budget, write_selection
    from hpcscale.selection.method import Candidates
    from hpcscale.selection.registry import load_method

    decides, params = context.decides, context.params
    store = TokenStore.open(context.input("pool") / "store")
    tokenizer = load_tokenizer(context.input("tokenizer") / "tokenizer")
    method = load_method(MethodConfig(**params["config"]))
    candidates = Candidates(
        ids=store.ids,
        lengths=store.lengths,
        domains=store.domains,
        domain_names=tuple(store.domain_names),
        scores=_scores(context),
        text=lambda row: tokenizer.decode(store.tokens(row)[:-1].tolist()),
    )
    budget, seed, epochs = decides["budget"], decides["seed"], decides["epochs"]
    kept = method.keep(candidates, budget, seed)
    selection = fill_budget(
        kept, store.ids, store.lengths, budget, seed, epochs, f"cell {params['cell']}"
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
    write_json(context.directory / SUMMARY, summary)
    return StepResult([SELECTION, SUMMARY], summary)


def _scores(context: Context):  # type: ignore[no-untyped-def]
    if not context.spec["inputs"].get("scores"):
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(context.input("scores") / "scores.parquet", columns=["score"])
    return table["score"].to_numpy()
