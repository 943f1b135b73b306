"""Scores as a table, one row a document: parquet, JSON, and what is highest and lowest.

id: uint64. text_hash: its 16 hexadecimal digits, the start of the SHA-256 of the text. domain,
tokens. score: the influence, learning rates included. step-..: each checkpoint's part of it.
influence_..: on each domain of the queries. query: the id of the best query.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcscale.atomic import atomic_writer
from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.influence.examples import Examples, RowExamples, document_scores
from hpcscale.influence.merge import Merged

if TYPE_CHECKING:
    import pyarrow as pa


def documents_of_rows(merged: Merged, examples: Examples, documents: int) -> Merged:
    """Scores of packed rows as scores of the store's documents, by tokens."""
    assert isinstance(examples, RowExamples)
    assert examples.order is not None
    order, stream = examples.order, examples.stream

    def by_document(rows: Any) -> Any:
        values = np.empty((documents, *rows.shape[1:]))
        values[order] = document_scores(stream, rows, documents)
        return values

    by_column = None if merged.by_column is None else by_document(merged.by_column)
    total = by_document(merged.total) if by_column is None else by_column.max(1)
    return replace(
        merged,
        total=total,
        by_checkpoint=by_document(merged.by_checkpoint),
        by_column=by_column,
        best=None if by_column is None else by_column.argmax(1),
    )


def score_table(
    store: TokenStore, merged: Merged, tags: Sequence[str], queries: TokenStore | None = None
) -> pa.Table:
    """One row a document, in the order of the store. ``tags`` name the checkpoints.

    ``queries``: the query set, where ``merged.best`` counts its documents.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {
        "id": store.ids,
        "text_hash": [f"{identity:016x}" for identity in store.ids.tolist()],
        "domain": [store.domain_names[code] for code in store.domains],
        "tokens": store.lengths,
        "score": merged.total,
    }
    for index, tag in enumerate(tags):
        columns[tag] = merged.by_checkpoint[:, index]
    if merged.by_column is not None:
        for index, name in enumerate(merged.columns):
            columns[f"influence_{name}"] = merged.by_column[:, index]
    if merged.best is not None:
        if merged.by_column is not None:
            columns["best_domain"] = [merged.columns[choice] for choice in merged.best]
        elif queries is not None and queries.n_documents == len(merged.columns):
            columns["query"] = queries.ids[merged.best]
    return pa.table(columns)


def read_table(path: Path) -> pa.Table:
    """Scores from parquet. Raises DataError where the file is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is no table of scores ({error}); give a scores.parquet") from None
    if not {"id", "score"} <= set(table.column_names):
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}, but not id and score; give "
            "a scores.parquet"
        )
    return table


def write_json_list(path: Path, table: pa.Table) -> None:
    """A list of one object a document; what has no score is null."""
    with atomic_writer(path, "w") as handle:
        handle.write("[\n")
        last = table.num_rows - 1
        for index, row in enumerate(_rows(table)):
            text = json.dumps(row, allow_nan=False)
            handle.write(text + (",\n" if index < last else "\n"))
        handle.write("]\n")


def _rows(table: pa.Table) -> Any:
    for batch in table.to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            yield {key: None if value != value else value for key, value in row.items()}
