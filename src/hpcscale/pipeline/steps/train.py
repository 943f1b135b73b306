"""One cell's training: the base model goes on, on the selected documents."""

from __future__ import annotations

from hpcscale.pipeline.context import Context, StepResult
from hpcscale.pipeline.steps.training import train_and_save


def run(context: Context) -> StepResult:
    from hpcscale.atomic import read_json
    from hpcscale.data.packing import PackedStream
    from hpcscale.data.store import TokenStore
    from hpcscale.model.build import load_model
    from hpcscale.selection.budget import read_selection
    from hpcscale.train.distributed import Ranks

    decides = context.decides
    store = TokenStore.open(context.input("pool") / "store")
    selected = context.input("selection")
    ids, tokens = read_selection(selected / "selection.parquet")
    stream = PackedStream(
        store, store.index_of(ids), tokens, decides["sequence_length"], decides["packing"]
    )
    facts = read_json(selected / "selection.json")
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / "model")
    with context.deferring():
        return train_and_save(context, model, stream, decides["seed"], ranks, facts)
