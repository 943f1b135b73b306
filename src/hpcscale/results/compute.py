"""The size of what was trained, for tables: by the weights of the base model in the run directory.

Earlier versions recorded FLOPs by a formula for GPT-2, whatever the model, and the parameters that
ZeRO 3 had left in place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json
from hpcscale.config.model import ModelConfig
from hpcscale.preview.cost import flops_per_token, model_size
from hpcscale.results.reading import Address, Row, input_ids, read_record, read_spec
from hpcscale.worker.steps.training import ENGINE, RECORD


def read_training(run_dir: Path, address: Address) -> Row | None:
    """The record of a training; None where it is not done under this key."""
    record = read_record(run_dir, address, RECORD)
    return None if record is None else by_weights(run_dir, address[0], record)


def by_weights(run_dir: Path, task_id: str, record: Row) -> Row:
    """``record`` with the size that its base model's weights have, where these are there."""
    spec = read_spec(run_dir, task_id)
    if spec is None or not input_ids(spec, "model"):
        return record
    found: Row = {}
    if (rate := base_rate(run_dir, spec)) is not None:
        found["flops_per_token"] = rate
    size = model_size(_base(run_dir, spec), None)
    if size is not None and _stage(run_dir / task_id / ENGINE) == 3:
        found["parameters"] = round(size.parameters)
    return record | found


def base_rate(run_dir: Path, spec: Row) -> float | None:
    """FLOPs a token, forward and backward, of the model that a task trains or scores with."""
    return flops_per_token(_base(run_dir, spec), None, spec["decides"]["sequence_length"])


def _base(run_dir: Path, spec: Row) -> ModelConfig:
    (model,) = input_ids(spec, "model")
    return ModelConfig(source=str((run_dir / model / "model").absolute()))


def _stage(engine: Path) -> Any:
    return read_json(engine).get("zero") if engine.exists() else None
