"""Mean negative log-likelihood of each document of one shard of the pool."""

from __future__ import annotations

from hpcscale.atomic import write_parquet
from hpcscale.worker.context import Context, StepResult

SCORES = "scores.parquet"


def run(context: Context) -> StepResult:
    import numpy as np
    import pyarrow as pa

    from hpcscale.data.shards import shard_range
    from hpcscale.data.store import TokenStore
    from hpcscale.evaluate.loss import document_nll
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks

    decides = context.decides
    store = TokenStore.open(context.input("pool") / "store")
    index, count = decides["shard"]
    first, last = shard_range(index, count, store.n_documents)
    ranks = Ranks.from_environment()
    # Ranks take interleaved documents of the shard and meet in the sum.
    mine = np.arange(first + ranks.rank, last, ranks.world_size)
    model = load_model(context.input("model") / "model").to(ranks.device)
    nll = np.zeros(last - first)
    tokens = np.zeros(last - first)
    sums, counts = document_nll(
        model,
        store,
        mine,
        sequence_length=decides["sequence_length"],
        device=ranks.device,
        precision=decides["precision"],
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    nll[mine - first], tokens[mine - first] = sums, counts
    nll, tokens = ranks.all_sum(nll), ranks.all_sum(tokens)
    if context.rank == 0:
        table = pa.table(
            {
                "id": store.ids[first:last],
                "score": nll / tokens,
                "tokens": tokens.astype(np.int64),
                "domain": [store.domain_names[code] for code in store.domains[first:last]],
            }
        )
        write_parquet(context.directory / SCORES, table)
    facts = {"documents": last - first, "device": ranks.device.type}
    return StepResult([SCORES], facts)
