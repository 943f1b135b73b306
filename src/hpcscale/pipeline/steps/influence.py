"""All score blocks of one request as a table with one row a document, in pool order."""

from __future__ import annotations

from pathlib import Path

from hpcscale.pipeline.context import Context, StepResult
from hpcscale.pipeline.steps.perplexity import SCORES


def run(context: Context) -> StepResult:
    import numpy as np

    from hpcscale.data.store import TokenStore
    from hpcscale.influence.merge import merge_blocks
    from hpcscale.influence.table import documents_of_rows, score_table, write_table
    from hpcscale.pipeline.measuring import snapshots_of, units_of

    decides = context.decides
    snapshots = snapshots_of(context.input("proxy"), decides["epsilon"])
    store = TokenStore.open(context.input("pool") / "store")
    pool = units_of(context.input("pool"), decides)
    captured = decides["way"] == "capture"
    merged = merge_blocks(
        _ordered(context),
        [1.0] * len(snapshots) if captured else [snapshot.eta for snapshot in snapshots],
        decides["aggregate"],
        store.n_documents if captured else pool.count,
        partial=captured,
    )
    if decides["unit"] == "sequence" and not captured:
        merged = documents_of_rows(merged, pool, store.n_documents)
    queries = None
    if decides["aggregate"] == "max":
        queries = TokenStore.open(context.input("query") / "store")
    table = score_table(store, merged, [snapshot.folder.name for snapshot in snapshots], queries)
    write_table(context.directory / SCORES, table)
    scores = merged.total[np.isfinite(merged.total)]
    quantiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(scores) else []
    facts = {"documents": len(merged.total), "scored": len(scores), "quartiles": quantiles}
    return StepResult([SCORES], facts)


def _ordered(context: Context) -> list[list[list[Path]]]:
    """Blocks by checkpoint, pool shard and query shard, as the plan listed them."""
    params, listed = context.params, context.verified_inputs("shards")
    pool, query = params["pool_shards"], params["query_shards"]
    return [
        [listed[first + q : first + q + query] for q in range(0, pool * query, query)]
        for first in range(0, len(listed), pool * query)
    ]
