"""Sizes of trained models for tables, by the weights of the base model in the run directory.

Earlier versions recorded FLOPs by a formula for GPT-2, even for other models, and under ZeRO 3 only
the parameters that the engine had left on a rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json
from hpcscale.config.model import ModelConfig
from hpcscale.model.sizes import flops_per_token, model_size
from hpcscale.plan.specs import Sequences
from hpcscale.rundir.layout import ENGINE, MODEL, RECORD
from hpcscale.rundir.reading import Address, Row, read_record
from hpcscale.rundir.task_file import TaskFile, find_task_file


def read_training(run_dir: Path, address: Address) -> Row | None:
    """The record of a training; None where it is not done under this key."""
    record = read_record(run_dir, address, RECORD)
    return None if record is None else by_weights(run_dir, address[0], record)


def by_weights(run_dir: Path, task_id: str, record: Row) -> Row:
    """``record`` with sizes by the weights of its base model, where the run directory has them."""
    file = find_task_file(run_dir, task_id)
    if file is None or not file.input_ids("model"):
        return record
    found: Row = {}
    if (rate := base_rate(run_dir, file)) is not None:
        found["flops_per_token"] = rate
    size = model_size(_base(run_dir, file), None)
    if size is not None and _stage(run_dir / task_id / ENGINE) == 3:
        found["parameters"] = round(size.parameters)
    return record | found


def base_rate(run_dir: Path, file: TaskFile) -> float | None:
    """FLOPs a token, forward and backward, of the model that a task trains or scores with."""
    length = Sequences.read(file.decides, {}).sequence_length
    return flops_per_token(_base(run_dir, file), None, length)


def _base(run_dir: Path, file: TaskFile) -> ModelConfig:
    (model,) = file.input_ids("model")
    return ModelConfig(source=str((run_dir / model / MODEL).absolute()))


def _stage(engine: Path) -> Any:
    return read_json(engine).get("zero") if engine.exists() else None
