"""All score blocks of one request as a table with one row a document, in pool order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcscale.atomic import write_parquet
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.perplexity import SCORES

if TYPE_CHECKING:
    from hpcscale.influence.examples import Examples


def run(context: Context) -> StepResult:
    import numpy as np

    from hpcscale.data.store import TokenStore
    from hpcscale.influence.merge import merge_blocks
    from hpcscale.influence.score_table import documents_of_rows, score_table
    from hpcscale.worker.influence_inputs import snapshots_of

    decides = context.decides
    snapshots = snapshots_of(context.input("proxy"), decides["epsilon"])
    store = TokenStore.open(context.input("pool") / "store")
    pool = _units(context)
    captured = decides["way"] == "capture"
    merged = merge_blocks(
        _ordered(context),
        [1.0] * len(snapshots) if captured else [snapshot.eta for snapshot in snapshots],
        decides["aggregate"],
        pool.count,
        partial=captured,
    )
    if decides["unit"] == "sequence":
        merged = documents_of_rows(merged, pool, store.n_documents)
    queries = None
    if decides["aggregate"] == "max":
        queries = TokenStore.open(context.input("query") / "store")
    table = score_table(store, merged, [snapshot.folder.name for snapshot in snapshots], queries)
    write_parquet(context.directory / SCORES, table)
    scores = merged.total[np.isfinite(merged.total)]
    quantiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(scores) else []
    facts = {"documents": len(merged.total), "scored": len(scores), "quartiles": quantiles}
    return StepResult([SCORES], facts)


def _units(context: Context) -> Examples:
    """What the blocks have a row of: of the pool, or of what the proxy run trained on."""
    from hpcscale.influence.capture_store import read_capture
    from hpcscale.influence.examples import RowExamples
    from hpcscale.worker.influence_inputs import CAPTURE, proxy_stream, units_of

    decides, pool = context.decides, context.input("pool")
    if decides["way"] == "capture" and decides["unit"] == "sequence":
        tokens = read_capture(context.input("proxy") / CAPTURE).facts["tokens"]
        stream, order = proxy_stream(pool, decides, int(tokens))
        return RowExamples(stream, order)
    return units_of(pool, decides)


def _ordered(context: Context) -> list[list[list[Path]]]:
    """Blocks by checkpoint, pool shard and query shard, as the plan listed them."""
    params, listed = context.params, context.verified_inputs("shards")
    pool, query = params["pool_shards"], params["query_shards"]
    return [
        [listed[first + q : first + q + query] for q in range(0, pool * query, query)]
        for first in range(0, len(listed), pool * query)
    ]
