"""The base model from scratch: a GPT-2 pretrained on the base corpus."""

from __future__ import annotations

from hpcscale.config.model import Shape
from hpcscale.errors import DataError
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import train_and_save


def run(context: Context) -> StepResult:
    from hpcscale.data.order import document_order
    from hpcscale.data.packing import PackedStream
    from hpcscale.data.store import TokenStore
    from hpcscale.model.build import build_model
    from hpcscale.train.distributed import Ranks

    decides = context.decides
    store = TokenStore.open(context.input("store") / "store")
    wanted = decides["tokens"] or store.n_tokens
    if wanted > store.n_tokens:
        raise DataError(
            f"model.pretrain.tokens asks for {wanted} tokens, the base corpus has "
            f"{store.n_tokens}; lower it, or raise data.base.tokens"
        )
    order = document_order(store.ids, decides["seed"])
    stream = PackedStream(store, order, wanted, decides["sequence_length"], decides["packing"])
    shape = Shape(**decides["shape"])
    ranks = Ranks.from_environment()
    context_length = shape.context or decides["sequence_length"]
    model = build_model(shape, store.vocab_size, context_length, store.eot_id)
    with context.deferring():
        return train_and_save(context, model, stream, decides["seed"], ranks, {})
