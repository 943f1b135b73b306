"""The stages of influence one by one, against any model directory and any token store.

Each folder that is written says in ``made.json`` what it was made of, which is what the next stage
reads of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json, write_json, write_parquet
from hpcscale.config.fingerprint import fingerprint
from hpcscale.errors import CheckpointError, ConfigError, DataError
from hpcscale.types import Progress

MADE = "made.json"


@dataclass(frozen=True)
class Measure:
    """How gradients are taken. adam: whether the model's snapshot has Adam's moments to use."""

    unit: str = "document"
    sequence_length: int = 1024
    packing: str = "concat"
    precision: str = "fp32"
    dimension: int | None = 4096
    rank: int | str | None = "auto"
    projection_seed: int = 0
    dtype: str = "fp16"
    adam: bool = False
    epsilon: float = 1e-5


def dump(
    model_name: str,
    store_path: Path,
    out: Path,
    measure: Measure,
    shard: tuple[int, int] = (0, 1),
    eta: float | None = None,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Gradients of shard i of n of a token store at a model; what ``made.json`` says.

    ``model_name``: a directory in Hugging Face format, a hub id, or a snapshot of a proxy run,
    which has its own eta. Every rank of a torchrun or srun call takes its part.
    """
    from hpcscale.cluster.entry import rank_environment
    from hpcscale.data.shards import shard_range
    from hpcscale.influence.dump import DumpOptions, dump_examples
    from hpcscale.influence.examples import all_examples
    from hpcscale.influence.sketch import Projection, Sketch
    from hpcscale.model.build import load_model

    os.environ.update(rank_environment(dict(os.environ)))
    from hpcscale.train.distributed import Ranks

    ranks = Ranks.from_environment()
    store = _store(store_path)
    source, snapshot = _model_source(model_name)
    if measure.adam and snapshot is None:
        raise CheckpointError(
            f"--adam needs Adam's moments, which {model_name} does not have; give a snapshot of a "
            "proxy run, such as RUN/influence/proxy-*/snapshots/step-00000040"
        )
    if snapshot is not None:
        snapshot = replace(snapshot, eps=measure.epsilon)
    if eta is None:
        eta = snapshot.eta if snapshot is not None else 1.0
    units = all_examples(store, measure.unit, measure.sequence_length, measure.packing)  # type: ignore[arg-type]
    bounds = shard_range(shard[0], shard[1], units.count)
    made = {
        "what": "gradients",
        "model": str(source),
        "weights": _weights_of(source),
        "step": snapshot.step if snapshot is not None else None,
        "eta": eta,
        "store": str(store.path.absolute()),
        "store_ids": store.manifest["sha256"]["ids.npy"],
        "units": list(bounds),
        **asdict(measure),
    }
    model = load_model(source).to(ranks.device)
    scale = snapshot.preconditioner(0.5, ranks.device) if snapshot and measure.adam else None
    projection = Projection(measure.rank, measure.dimension, measure.projection_seed)  # type: ignore[arg-type]
    options = DumpOptions(measure.dtype, measure.precision, fingerprint(made), batch_tokens)
    dump_examples(
        model, units, bounds, Sketch(model, projection, ranks.device), out, options,
        ranks=ranks, scale=scale, progress=progress if ranks.rank == 0 else None,
    )  # fmt: skip
    if ranks.rank == 0:
        write_json(out / MADE, made)
    return made


def score(
    pool_path: Path,
    query_path: Path | None,
    out: Path,
    kind: str,
    normalise: bool,
    query_weights: Mapping[str, float],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """One block: a dump of the pool against one of the queries; None: self-influence."""
    import numpy as np

    from hpcscale.influence.aggregate import group_queries
    from hpcscale.influence.blocks import score_block
    from hpcscale.influence.gradient_shards import GradientShard

    made = _made(pool_path, "gradients")
    query, groups = None, group_queries("self", np.zeros(0, int), ())
    if query_path is not None:
        of_query = _made(query_path, "gradients")
        _same_checkpoint(pool_path, made, query_path, of_query)
        query = GradientShard(query_path)
        groups = group_queries(
            kind, *_query_domains(of_query), query_weights  # type: ignore[arg-type]
        ).part(*of_query["units"])  # fmt: skip
    elif kind != "self":
        raise ConfigError(f"--aggregate {kind} needs --queries; without, write --aggregate self")
    block = {
        "what": "scores",
        "pool": made,
        "queries": _made(query_path, "gradients")["units"] if query_path else [0, 0],
        "aggregate": kind,
        "normalise": normalise,
        "query_weights": dict(query_weights),
    }
    score_block(
        GradientShard(pool_path), query, groups, normalise, out, fingerprint(block), progress
    )
    write_json(out / MADE, block)
    return block


def _same_checkpoint(
    pool: Path, made: Mapping[str, Any], query: Path, of_query: Mapping[str, Any]
) -> None:
    for name in ("weights", "adam", "epsilon", "unit", "sequence_length", "precision"):
        if made[name] != of_query[name]:
            raise DataError(
                f"{pool} and {query} do not belong together: their {name} are {made[name]} and "
                f"{of_query[name]}; dump both at one checkpoint with the same options"
            )


def _query_domains(made: Mapping[str, Any]) -> tuple[Any, Sequence[str]]:
    from hpcscale.influence.examples import RowExamples, all_examples, row_domains

    store = _store(Path(made["store"]))
    units = all_examples(store, made["unit"], made["sequence_length"], made["packing"])
    domains = row_domains(units, store.domains) if isinstance(units, RowExamples) else store.domains
    return domains, store.domain_names


def merge(blocks: Sequence[Path], store_path: Path | None, out: Path) -> int:
    """Blocks of any number of checkpoints, pool shards and query shards as ``out``, parquet.

    Returns the number of documents. Raises DataError where blocks are missing or do not fit.
    """
    from hpcscale.influence.examples import all_examples
    from hpcscale.influence.merge import merge_blocks
    from hpcscale.influence.score_table import documents_of_rows, score_table

    made = {path: _made(path, "scores") for path in blocks}
    grid, etas, tags, first = _grid(made)
    store = _store(store_path or Path(first["pool"]["store"]))
    of_pool = first["pool"]
    if store.manifest["sha256"]["ids.npy"] != of_pool["store_ids"]:
        raise DataError(f"the blocks score other documents than those of {store.path}; give the "
                        "store that was dumped with --data")  # fmt: skip
    units = all_examples(store, of_pool["unit"], of_pool["sequence_length"], of_pool["packing"])
    merged = merge_blocks(grid, etas, first["aggregate"], units.count)
    if of_pool["unit"] == "sequence":
        merged = documents_of_rows(merged, units, store.n_documents)
    write_parquet(out, score_table(store, merged, tags))
    return int(store.n_documents)


def pool_of(block: Path) -> Path:
    """The store whose documents a block scores."""
    return Path(_made(block, "scores")["pool"]["store"])


def _grid(
    made: Mapping[Path, dict[str, Any]],
) -> tuple[list[list[list[Path]]], list[float], list[str], dict[str, Any]]:
    """Blocks by checkpoint, pool shard and query shard; etas and names of the checkpoints."""
    first = next(iter(made.values()))
    for path, block in made.items():
        for name in ("aggregate", "normalise", "query_weights"):
            if block[name] != first[name]:
                raise DataError(f"{path} has {name} {block[name]}, others {first[name]}; merge "
                                "blocks of one kind")  # fmt: skip
    place = {path: _place(block) for path, block in made.items()}
    checkpoints, pools, queries = (sorted(set(axis)) for axis in zip(*place.values(), strict=True))
    by_place = {where: path for path, where in place.items()}
    grid, etas, tags = [], [], []
    for number, checkpoint in enumerate(checkpoints):
        grid.append([[_at(by_place, (checkpoint, p, q)) for q in queries] for p in pools])
        of_pool = made[grid[-1][0][0]]["pool"]
        etas.append(float(of_pool["eta"]))
        step = of_pool["step"]
        tags.append(f"step-{step:08d}" if step is not None else f"checkpoint-{number}")
    return grid, etas, tags, first


_Place = tuple[tuple[int, str], tuple[int, ...], tuple[int, ...]]


def _place(block: Mapping[str, Any]) -> _Place:
    """Checkpoint, units of the pool, queries: what blocks are put in order by."""
    pool = block["pool"]
    return (pool["step"] or 0, pool["weights"]), tuple(pool["units"]), tuple(block["queries"])


def _at(by_place: Mapping[_Place, Path], place: _Place) -> Path:
    path = by_place.get(place)
    if path is None:
        checkpoint, pool, query = place
        raise DataError(
            f"there is no block of units {pool[0]} to {pool[1] - 1} against queries {query[0]} to "
            f"{query[1] - 1} at checkpoint {checkpoint[0] or checkpoint[1]}; score it, and give "
            "all blocks"
        )
    return path


def _made(folder: Path, what: str) -> dict[str, Any]:
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


def _store(path: Path) -> Any:
    from hpcscale.data.store import TokenStore

    return TokenStore.open(path / "store" if (path / "store").is_dir() else path)


def _model_source(name: str) -> tuple[str | Path, Any]:
    """What ``load_model`` takes, and the snapshot that it is of, or None."""
    from hpcscale.influence.snapshots import read_snapshots
    from hpcscale.tools.evaluate import model_directory

    path = Path(name).expanduser()
    if (path / "snapshot.json").exists():
        found = next(s for s in read_snapshots(path.parent) if s.folder == path)
        return found.model, found
    return model_directory(name), None


def _weights_of(source: str | Path) -> str:
    """A fingerprint of the weights: of the files of a directory, else of the hub's name."""
    from hpcscale.atomic import sha256_file

    if not Path(source).is_dir():
        return fingerprint(str(source))
    return fingerprint({p.name: sha256_file(p) for p in sorted(Path(source).glob("*.safetensors"))})
