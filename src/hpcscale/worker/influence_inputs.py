"""What the steps of influence share: units, checkpoints and groups of queries, from a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcscale.errors import CheckpointError
from hpcscale.worker.context import Context

if TYPE_CHECKING:
    from torch import nn

    from hpcscale.data.packing import PackedStream
    from hpcscale.influence.aggregate import Groups
    from hpcscale.influence.capture_store import CapturedRows
    from hpcscale.influence.examples import Examples
    from hpcscale.influence.factors import Direction
    from hpcscale.influence.snapshots import Snapshot
    from hpcscale.train.distributed import Ranks
    from hpcscale.types import Ints

SNAPSHOTS = "snapshots"
CAPTURE = "capture"


def units_of(store_task: Path, decides: dict[str, Any]) -> Examples:
    """The documents of a store, or its rows packed as in training in an order of their own."""
    from hpcscale.data.store import TokenStore
    from hpcscale.influence.examples import all_examples

    store = TokenStore.open(store_task / "store")
    return all_examples(
        store, decides["unit"], decides["sequence_length"], decides["packing"], decides["seed"]
    )


def snapshots_of(proxy: Path, epsilon: float | None) -> list[Snapshot]:
    """The checkpoints of a proxy run, in order; ``epsilon`` replaces the optimizer's own."""
    from hpcscale.influence.snapshots import read_snapshots

    found = read_snapshots(proxy / SNAPSHOTS)
    return found if epsilon is None else [replace(s, eps=epsilon) for s in found]


def loaded_snapshot(
    context: Context, ranks: Ranks, power: float
) -> tuple[nn.Module, Direction | None]:
    """The model of the task's checkpoint on this rank's device, and P^power; None for power 0."""
    from hpcscale.model.build import load_model

    decides = context.decides
    snapshots = snapshots_of(context.input("proxy"), decides["epsilon"])
    number = decides["checkpoint"]
    if number >= len(snapshots):
        raise CheckpointError(
            f"{context.input('proxy')} has {len(snapshots)} checkpoints, not the {number + 1} that "
            "are wanted; delete it and run the same `hpcscale sweep` again"
        )
    snapshot = snapshots[number]
    model = load_model(snapshot.model).to(ranks.device)
    scale = snapshot.preconditioner(power, ranks.device) if power else None
    return model, scale


def proxy_stream(pool: Path, decides: dict[str, Any], tokens: int) -> tuple[PackedStream, Ints]:
    """What a proxy run trains on, and the documents of the pool in that order."""
    from hpcscale.data.order import document_order
    from hpcscale.data.packing import PackedStream
    from hpcscale.data.store import TokenStore

    store = TokenStore.open(pool / "store")
    order = document_order(store.ids, decides["seed"])
    stream = PackedStream(store, order, tokens, decides["sequence_length"], decides["packing"])
    return stream, order


def captured_units(pool: Path, decides: dict[str, Any], captured: CapturedRows) -> tuple[Ints, int]:
    """The unit that each captured row is a piece of, int64, and how many units there are."""
    import numpy as np

    from hpcscale.data.store import TokenStore

    if decides["unit"] == "sequence":
        rows: Ints = captured.ids.astype(np.int64)
        stream, _ = proxy_stream(pool, decides, int(captured.facts["tokens"]))
        return rows, stream.n_rows
    store = TokenStore.open(pool / "store")
    return store.index_of(captured.ids), store.n_documents


def query_groups(context: Context) -> Groups:
    """The columns of the request's score blocks."""
    import numpy as np

    from hpcscale.data.store import TokenStore
    from hpcscale.influence.aggregate import group_queries
    from hpcscale.influence.examples import RowExamples, row_domains

    decides = context.decides
    if decides["aggregate"] == "self":
        return group_queries("self", np.zeros(0, int), ())
    store = TokenStore.open(context.input("query") / "store")
    units = units_of(context.input("query"), decides)
    domains = row_domains(units, store.domains) if isinstance(units, RowExamples) else store.domains
    return group_queries(
        decides["aggregate"], domains, store.domain_names, decides["query_weights"]
    )
