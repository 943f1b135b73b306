"""The overlap between the selections of two methods."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from hpcscale.atomic import read_done
from hpcscale.plan.specs import AnalyseSpec, CellRow
from hpcscale.rundir.layout import SELECTION
from hpcscale.rundir.reading import Row
from hpcscale.rundir.task_file import find_task_file

COLUMNS = [
    "tokens",
    "seed",
    "method_a",
    "method_b",
    "documents_a",
    "documents_b",
    "shared_documents",
    "jaccard",
    "shared_tokens",
    "token_jaccard",
]


def collect_overlap(run_dir: Path, spec: AnalyseSpec) -> list[Row]:
    """A row for each budget, seed and pair of methods whose selections are done.

    Repeats do not count: a document is selected once, with its tokens of the first epoch.
    ``jaccard`` = |A and B| / |A or B| of documents; ``token_jaccard`` weighs each document by
    the tokens taken: sum of minima over sum of maxima (Ruzicka's similarity).
    """
    cells: dict[tuple[int, int], dict[str, CellRow]] = {}
    for cell in spec.cells:
        cells.setdefault((cell.budget, cell.seed), {})[cell.method] = cell
    rows = []
    for (budget, seed), by_method in cells.items():
        read = {method: _selected(run_dir, cell) for method, cell in by_method.items()}
        found = {method: tokens for method, tokens in read.items() if tokens is not None}
        for (a, of_a), (b, of_b) in itertools.combinations(found.items(), 2):
            rows.append(
                {"tokens": budget, "seed": seed, "method_a": a, "method_b": b} | compare(of_a, of_b)
            )
    return rows


def _selected(run_dir: Path, cell: CellRow) -> pd.Series[int] | None:
    """Tokens taken by document id; None where the selection is not done."""
    file = find_task_file(run_dir, cell.train[0])
    if file is None:
        return None
    (selection,) = file.inputs["selection"]
    if read_done(run_dir / selection.id, selection.key) is None:
        return None
    table = pq.read_table(run_dir / selection.id / SELECTION).to_pandas()
    tokens: pd.Series[int] = table[table["epoch"] == 0].set_index("id")["tokens"]
    return tokens


def compare(a: pd.Series[int], b: pd.Series[int]) -> Row:
    """The overlap of two selections, which are tokens by document id."""
    shared = a.index.intersection(b.index)
    least = a.reindex(shared).combine(b.reindex(shared), min)
    documents = len(a) + len(b) - len(shared)
    shared_tokens = int(least.sum())
    tokens = int(a.sum()) + int(b.sum()) - shared_tokens
    return {
        "documents_a": len(a),
        "documents_b": len(b),
        "shared_documents": len(shared),
        "jaccard": len(shared) / documents,
        "shared_tokens": shared_tokens,
        "token_jaccard": shared_tokens / tokens,
    }
