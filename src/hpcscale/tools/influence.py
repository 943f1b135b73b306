"""Influence by hand: folders of gradients and score blocks, each with a record of what it is of.

``made.json`` in each folder is what the next stage reads of it. ``influence/api.py`` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json, sha256_file, write_json
from hpcscale.cluster.entry import rank_environment
from hpcscale.config.fingerprint import fingerprint
from hpcscale.data.shards import shard_range
from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.influence import api
from hpcscale.influence.inputs import examples_of
from hpcscale.influence.requests import (
    Aggregation,
    BlockRequest,
    CheckpointChoice,
    DumpRequest,
    Measure,
    MergeRequest,
    QuerySet,
    ScoredCheckpoint,
)
from hpcscale.influence.sketch import Projection
from hpcscale.influence.snapshots import is_snapshot, read_snapshot
from hpcscale.tools.evaluate import model_directory
from hpcscale.train.distributed import Ranks
from hpcscale.types import Progress

MADE = "made.json"
Made = dict[str, Any]


@dataclass(frozen=True)
class HandDump:
    """A dump as the command line asks for it."""

    #: A directory in Hugging Face format, a hub id, or a snapshot of a proxy run.
    model: str
    #: A token store, or the folder of a task that holds one.
    data: Path
    measure: Measure = field(default_factory=Measure)
    #: This shard, and how many there are.
    shard: tuple[int, int] = (0, 1)
    #: Whether gradients are multiplied by the root of Adam's metric.
    adam: bool = False
    #: Of Adam's metric.
    epsilon: float = 1e-5
    #: The learning rate that the checkpoint stands for; None: a snapshot's own, 1 for a model.
    eta: float | None = None
    #: Tokens of a forward pass.
    batch_tokens: int = 4096


def dump(asked: HandDump, out: Path, progress: Progress | None = None) -> Made:
    """Write gradients into ``out``; the record. Every rank of torchrun or srun writes its part.

    Raises CheckpointError for ``adam`` without a snapshot.
    """
    os.environ.update(rank_environment(dict(os.environ)))
    ranks = Ranks.from_environment()
    store = TokenStore.open(store_folder(asked.data))
    checkpoint = _checkpoint(asked)
    examples = examples_of(store, asked.measure).count
    made = _dump_record(asked, checkpoint, store, shard_range(*asked.shard, examples))
    request = DumpRequest(
        store.path, checkpoint, asked.measure, asked.shard, fingerprint(made), asked.batch_tokens
    )
    api.dump(request, out, ranks=ranks, progress=None if ranks.rank else progress)
    if ranks.rank == 0:
        write_json(out / MADE, made)
    return made


def _checkpoint(asked: HandDump) -> CheckpointChoice:
    path, power = Path(asked.model).expanduser(), 0.5 if asked.adam else 0.0
    if is_snapshot(path):
        snapshot = read_snapshot(path)
        return CheckpointChoice(snapshot.model, snapshot, power, asked.epsilon)
    return CheckpointChoice(model_directory(asked.model), None, power, asked.epsilon)


def _dump_record(
    asked: HandDump, checkpoint: CheckpointChoice, store: TokenStore, bounds: tuple[int, int]
) -> Made:
    measure, snapshot, eta = asked.measure, checkpoint.snapshot, asked.eta
    if eta is None:
        eta = snapshot.eta if snapshot is not None else 1.0
    return {
        "what": "gradients",
        "model": str(checkpoint.model),
        "weights": _weights_of(checkpoint.model),
        "step": snapshot.step if snapshot is not None else None,
        "eta": eta,
        "store": str(store.path.absolute()),
        "store_ids": store.manifest["sha256"]["ids.npy"],
        "units": list(bounds),
        "unit": measure.unit,
        "sequence_length": measure.sequence_length,
        "packing": measure.packing,
        "precision": measure.precision,
        "dimension": measure.projection.dimension,
        "rank": measure.projection.rank,
        "projection_seed": measure.projection.seed,
        "dtype": measure.dtype,
        "adam": asked.adam,
        "epsilon": asked.epsilon,
    }


def _measure(made: Made) -> Measure:
    projection = Projection(made["rank"], made["dimension"], made["projection_seed"])
    names = ("unit", "sequence_length", "packing", "precision", "dtype")
    return Measure(projection=projection, **{name: made[name] for name in names})


def _weights_of(model: str | Path) -> str:
    """A fingerprint of the weights: of the files of a directory, else of the hub's name."""
    if not Path(model).is_dir():
        return fingerprint(str(model))
    return fingerprint({p.name: sha256_file(p) for p in sorted(Path(model).glob("*.safetensors"))})


def score(
    pool: Path,
    queries: Path | None,
    out: Path,
    aggregation: Aggregation,
    progress: Progress | None = None,
) -> Made:
    """Write a score block of two dumps into ``out``, of one for self-influence; the record."""
    made = _read_made(pool, "gradients")
    query_set, query_bounds = None, [0, 0]
    if queries is not None:
        of_queries = _read_made(queries, "gradients")
        _check_same_checkpoint(pool, made, queries, of_queries)
        query_set = QuerySet(Path(of_queries["store"]), _measure(of_queries), queries)
        query_bounds = of_queries["units"]
    block = {
        "what": "scores",
        "pool": made,
        "queries": query_bounds,
        "aggregate": aggregation.kind,
        "normalise": aggregation.cosine,
        "query_weights": dict(aggregation.query_weights),
    }
    request = BlockRequest(aggregation, query_set, pool, fingerprint(block))
    api.score(request, out, progress)
    write_json(out / MADE, block)
    return block


def _check_same_checkpoint(pool: Path, made: Made, queries: Path, of_queries: Made) -> None:
    for name in ("weights", "adam", "epsilon", "unit", "sequence_length", "precision"):
        if made[name] != of_queries[name]:
            raise DataError(
                f"{pool} and {queries} do not belong together: their {name} are {made[name]} and "
                f"{of_queries[name]}; dump both at one checkpoint with the same options"
            )


def merge(blocks: Sequence[Path], data: Path | None, out: Path) -> int:
    """Blocks of any number of checkpoints and shards, in any order, as ``out``, parquet.

    Returns the number of documents. Raises DataError where blocks are missing or do not fit.
    """
    made = {path: _read_made(path, "scores") for path in blocks}
    first = next(iter(made.values()))
    _check_same_kind(made, first)
    store = TokenStore.open(store_folder(data or Path(first["pool"]["store"])))
    if store.manifest["sha256"]["ids.npy"] != first["pool"]["store_ids"]:
        raise DataError(
            f"the blocks score other documents than those of {store.path}; give the store that "
            "was dumped with --data"
        )
    ordered, checkpoints, query_shards = _planned_order(made)
    kind, measure = first["aggregate"], _measure(first["pool"])
    request = MergeRequest(ordered, checkpoints, query_shards, kind, store.path, measure)
    return len(api.merge(request, out))


def _check_same_kind(made: Mapping[Path, Made], first: Made) -> None:
    for path, block in made.items():
        for name in ("aggregate", "normalise", "query_weights"):
            if block[name] != first[name]:
                raise DataError(
                    f"{path} has {name} {block[name]}, others {first[name]}; merge blocks of one "
                    "kind"
                )


def _planned_order(
    made: Mapping[Path, Made],
) -> tuple[list[Path], list[ScoredCheckpoint], int]:
    """Blocks by checkpoint, pool shard and query shard; the checkpoints; how many query shards.

    Raises DataError naming the block that is missing.
    """
    by_place = {_place(block): path for path, block in made.items()}
    checkpoints, pools, queries = (sorted(set(axis)) for axis in zip(*by_place, strict=True))
    places = [(c, p, q) for c in checkpoints for p in pools for q in queries]
    for (step, weights), pool, query in places:
        if ((step, weights), pool, query) not in by_place:
            raise DataError(
                f"there is no block of examples {pool[0]} to {pool[1] - 1} against queries "
                f"{query[0]} to {query[1] - 1} at checkpoint {step or weights}; score it, and give "
                "all blocks"
            )
    ordered = [by_place[place] for place in places]
    scored = []
    for number, block in enumerate(ordered[:: len(pools) * len(queries)]):
        step, eta = made[block]["pool"]["step"], float(made[block]["pool"]["eta"])
        name = f"step-{step:08d}" if step is not None else f"checkpoint-{number}"
        scored.append(ScoredCheckpoint(name, eta))
    return ordered, scored, len(queries)


_Place = tuple[tuple[int, str], tuple[int, int], tuple[int, int]]


def _place(block: Made) -> _Place:
    """Checkpoint, examples of the pool, queries: what blocks are put in order by."""
    pool = block["pool"]
    (first, last), (first_query, last_query) = pool["units"], block["queries"]
    return (pool["step"] or 0, pool["weights"]), (first, last), (first_query, last_query)


def pool_of(block: Path) -> Path:
    """The store whose documents a block scores."""
    return Path(_read_made(block, "scores")["pool"]["store"])


def _read_made(folder: Path, what: str) -> Made:
    if not (folder / MADE).exists():
        verb = {"gradients": "dump", "scores": "score"}[what]
        raise DataError(
            f"{folder} was not finished by `hpcscale influence {verb}` (it has no {MADE}); run "
            "that again, which goes on with what is there"
        )
    made = dict(read_json(folder / MADE))
    if made["what"] != what:
        raise DataError(f"{folder} holds {made['what']}, not {what}")
    return made


def store_folder(path: Path) -> Path:
    """A token store: ``path`` itself, or the one that a task wrote into it."""
    return path / "store" if (path / "store").is_dir() else path
