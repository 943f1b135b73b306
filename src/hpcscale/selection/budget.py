"""Fill a token budget exactly: the last document is cut, and repeats are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import write_parquet
from hpcscale.data.order import document_order
from hpcscale.errors import DataError
from hpcscale.selection.method import Positions
from hpcscale.units import format_count


@dataclass(frozen=True)
class Selection:
    """What one cell trains on, in training order.

    positions: int64 [k], rows of the pool, repeated where ``epoch`` is above 0. tokens: int64 [k],
    tokens taken of each; all of the document, but for the last. epoch: int16 [k].
    """

    positions: Positions
    tokens: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.int16]

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.sum())

    @property
    def unique_tokens(self) -> int:
        """Tokens of the first pass; repeats are not counted."""
        return int(self.tokens[self.epoch == 0].sum())


def fill_budget(
    kept: Positions,
    ids: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.int64],
    budget: int,
    seed: int,
    epochs: int = 1,
    cell: str = "this cell",
) -> Selection:
    """Take documents in the order ``kept`` until ``budget`` tokens are reached exactly.

    ``ids`` and ``lengths`` are of the whole pool. From the second epoch on, the kept documents
    come in a new seeded order. Raises DataError when ``epochs`` passes do not hold the budget.
    """
    available = int(lengths[kept].sum())
    if available * epochs < budget:
        needed = -(-budget // available) if available else 0
        way_out = f" or allow repeats with `train.epochs: {needed}`" if needed else ""
        raise DataError(
            f"{cell} needs {format_count(budget)} tokens, but its method keeps "
            f"{format_count(available)} tokens of {len(kept)} documents"
            f"{f' x {epochs} epochs' if epochs > 1 else ''}; "
            f"lower the budget, enlarge `data.pool.tokens`{way_out}"
        )
    parts = [kept]
    for epoch in range(1, -(-budget // available)):
        parts.append(kept[document_order(ids[kept], seed, epoch)])
    positions = np.concatenate(parts)
    epoch_of = np.repeat(np.arange(len(parts), dtype=np.int16), len(kept))
    tokens = lengths[positions].astype(np.int64)
    ends = np.cumsum(tokens)
    count = int(np.searchsorted(ends, budget)) + 1
    tokens = tokens[:count].copy()
    tokens[-1] -= int(ends[count - 1]) - budget
    return Selection(positions[:count], tokens, epoch_of[:count])


def write_selection(path: Path, selection: Selection, ids: npt.NDArray[np.uint64]) -> None:
    """One row a document: id, tokens, epoch, in training order, as parquet."""
    import pyarrow as pa

    table = pa.table(
        {"id": ids[selection.positions], "tokens": selection.tokens, "epoch": selection.epoch}
    )
    write_parquet(path, table)


def read_selection(path: Path) -> tuple[npt.NDArray[np.uint64], int]:
    """Document ids in training order, and the exact number of tokens."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id", "tokens"])
    return table["id"].to_numpy(), int(table["tokens"].to_numpy().sum())
