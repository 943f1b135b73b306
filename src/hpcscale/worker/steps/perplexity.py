"""Mean negative log-likelihood of each document of one shard of the pool."""

from __future__ import annotations

import numpy as np

from hpcscale.atomic import write_parquet
from hpcscale.data.shards import shard_range
from hpcscale.data.store import TokenStore
from hpcscale.evaluate.loss import document_nll
from hpcscale.model.build import load_model
from hpcscale.plan.specs import PerplexitySpec
from hpcscale.rundir.layout import MODEL, SCORES, STORE
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.scores import shard_table


def run(context: Context[PerplexitySpec]) -> StepResult:
    spec = context.spec
    store = TokenStore.open(context.input("pool") / STORE)
    first, last = shard_range(*spec.shard, store.n_documents)
    ranks = Ranks.from_environment()
    # Ranks score interleaved documents of the shard, and a sum joins their results.
    mine = np.arange(first + ranks.rank, last, ranks.world_size)
    model = load_model(context.input("model") / MODEL).to(ranks.device)
    nll = np.zeros(last - first)
    tokens = np.zeros(last - first)
    sums, counts = document_nll(
        model,
        store,
        mine,
        sequence_length=spec.sequences.sequence_length,
        device=ranks.device,
        precision=spec.sequences.precision,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    nll[mine - first], tokens[mine - first] = sums, counts
    nll, tokens = ranks.all_sum(nll), ranks.all_sum(tokens)
    if context.rank == 0:
        counted = tokens.astype(np.int64)
        table = shard_table(store, first, last, nll / tokens, counted)
        write_parquet(context.directory / SCORES, table)
    facts = {"documents": last - first, "device": ranks.device.type}
    return StepResult([SCORES], facts)
