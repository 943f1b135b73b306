"""Evaluate any model on any eval set, with the same numbers as a sweep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hpcscale.atomic import read_done
from hpcscale.errors import CheckpointError, DataError
from hpcscale.opened import Sweep
from hpcscale.rundir.layout import CONFIG, MODEL, STORE
from hpcscale.sweep import open_sweep, reopen


@dataclass(frozen=True)
class EvalData:
    """A token store and how its tokens become sequences."""

    store: Path
    sequence_length: int
    packing: Literal["concat", "isolate"]
    precision: str


def resolve_eval_data(data: Path, asked: dict[str, Any]) -> EvalData:
    """``data`` is a token store, a run directory or a sweep file; ``asked`` overrides the sweep.

    Raises DataError where it is neither of these, or the sweep's eval set is not prepared.
    """
    if (data / CONFIG).exists():
        return _of_sweep(reopen(data), asked)
    if data.is_dir():
        store = data / STORE if (data / STORE).is_dir() else data
        if not (store / "manifest.json").exists():
            raise DataError(
                f"{data} is neither a token store nor a run directory; give one, or a sweep file"
            )
        values: dict[str, Any] = {"sequence_length": 1024, "packing": "concat", "precision": "fp32"}
        return EvalData(store, **(values | asked))
    return _of_sweep(open_sweep(data, (), "local"), asked)


def _of_sweep(sweep: Sweep, asked: dict[str, Any]) -> EvalData:
    task = sweep.tasks.shared.stores["eval"]
    if read_done(sweep.run_dir / task.id, task.key) is None:
        raise DataError(
            f"the eval set of {sweep.config.name} is not in {sweep.run_dir} yet; make it with "
            f"`hpcscale data prepare {sweep.path}`"
        )
    return EvalData(
        sweep.run_dir / task.id / STORE, **(sweep.tasks.shared.sequences.model_dump() | asked)
    )


def evaluate_models(
    names: Sequence[str], data: EvalData, micro_batch: int
) -> dict[str, dict[str, Any]] | None:
    """Results by model name, in the order given; None on ranks above 0."""
    from hpcscale.cluster.entry import rank_environment

    paths = {name: model_directory(name) for name in names}
    os.environ.update(rank_environment(dict(os.environ)))
    from hpcscale.data.store import TokenStore
    from hpcscale.evaluate.loss import evaluate
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks

    store = TokenStore.open(data.store)
    results = {}
    ranks = Ranks.from_environment()
    for name, path in paths.items():
        model = load_model(path).to(ranks.device)
        results[name] = asdict(
            evaluate(
                model,
                store,
                sequence_length=data.sequence_length,
                packing=data.packing,
                micro_batch=micro_batch,
                ranks=ranks,
                precision=data.precision,
            )
        )
    return results if ranks.rank == 0 else None


def model_directory(name: str) -> str | Path:
    """The directory or hub id of the model ``name``; for a cell's directory, the model in it.

    Raises CheckpointError for a directory that does not exist or has no model.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        if name.startswith((".", "/", "~")) or len(path.parts) > 2:
            raise CheckpointError(
                f"{name}: no such directory; `hpcscale status RUN --all` lists cells"
            )
        return name
    for candidate in (path, path / MODEL):
        if (candidate / "config.json").exists():
            return candidate
    raise CheckpointError(
        f"{name} has no model (no config.json in it or in {path / 'model'}); give the directory "
        "of a cell, or of a model in Hugging Face format"
    )
