"""The base model from scratch: a GPT-2 pretrained on the base corpus."""

from __future__ import annotations

from hpcscale.data.order import document_order
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.model.build import build_model
from hpcscale.plan.specs import PretrainSpec
from hpcscale.rundir.layout import STORE
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import train_and_save


def run(context: Context[PretrainSpec]) -> StepResult:
    spec, shape = context.spec, context.spec.shape
    store = TokenStore.open(context.input("store") / STORE)
    wanted = spec.tokens or store.n_tokens
    if wanted > store.n_tokens:
        raise DataError(
            f"model.pretrain.tokens asks for {wanted} tokens, the base corpus has "
            f"{store.n_tokens}; lower it, or raise data.base.tokens"
        )
    order = document_order(store.ids, spec.seed)
    length, packing = spec.sequences.sequence_length, spec.sequences.packing
    stream = PackedStream(store, order, wanted, length, packing)
    ranks = Ranks.from_environment()
    model = build_model(shape, store.vocab_size, shape.context or length, store.eot_id)
    with context.deferring():
        return train_and_save(context, model, stream, ranks, {})
