"""The shards of a scoring stage as one table with one row a document, in pool order."""

from __future__ import annotations

from hpcscale.atomic import write_parquet
from hpcscale.errors import TaskError
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.perplexity import SCORES


def run(context: Context) -> StepResult:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hpcscale.data.store import TokenStore

    store = TokenStore.open(context.input("pool") / "store")
    tables = []
    for shard in context.verified_inputs("shards"):
        tables.append(pq.read_table(shard / SCORES))
    table = pa.concat_tables(tables)
    if not np.array_equal(table["id"].to_numpy(), store.ids):
        raise TaskError(
            f"the {len(tables)} score shards hold {table.num_rows} rows that are not the pool's "
            f"{store.n_documents} documents; delete {context.directory.parent} and run again"
        )
    scores = table["score"].to_numpy()
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise TaskError(
            f"the score of document {int(store.ids[bad]):016x} is {scores[bad]}; the scoring "
            "model is broken or of too low a precision: try `train.precision: fp32`"
        )
    write_parquet(context.directory / SCORES, table)
    quantiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return StepResult([SCORES], {"documents": table.num_rows, "quartiles": quantiles})
