"""Tables of scores: one for each shard, and their merge in pool order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hpcscale.atomic import write_parquet
from hpcscale.data.store import TokenStore
from hpcscale.errors import TaskError
from hpcscale.rundir.layout import SCORES, STORE
from hpcscale.worker.context import AnyContext, StepResult


def shard_table(
    store: TokenStore,
    first: int,
    last: int,
    scores: npt.NDArray[np.float64],
    tokens: npt.NDArray[np.int64],
) -> pa.Table:
    """One row for each document of the pool's rows [first, last)."""
    return pa.table(
        {
            "id": store.ids[first:last],
            "score": scores,
            "tokens": tokens,
            "domain": [store.domain_names[code] for code in store.domains[first:last]],
        }
    )


def merge_shards(context: AnyContext, cause: str) -> StepResult:
    """Write the shards as one table. Raises TaskError where a row is missing, or a score is not
    finite, which ``cause`` explains."""
    store = TokenStore.open(context.input("pool") / STORE)
    tables = [pq.read_table(shard / SCORES) for shard in context.verified_inputs("shards")]
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
            f"the score of document {int(store.ids[bad]):016x} is {scores[bad]}; {cause}"
        )
    write_parquet(context.directory / SCORES, table)
    quartiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return StepResult([SCORES], {"documents": table.num_rows, "quartiles": quartiles})
