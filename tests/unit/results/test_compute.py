"""Tables do not take over the sizes that earlier versions recorded wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from families import LENGTH, tiny_config, tiny_model
from hpcscale.atomic import write_done, write_json
from hpcscale.model.flops import model_flops_per_token
from hpcscale.plan.kinds import TRAIN
from hpcscale.results.compute import read_training
from hpcscale.rundir.task_file import write_task_file
from planning import some_task, task_file

WRONG = {"flops_per_token": 1.0, "parameters": 2, "tokens": 3}


def run_of(folder: Path, kind: str, zero: int) -> Any:
    """A trained cell whose record is wrong, and the base model that it began with."""
    model: Any = tiny_model(tiny_config(kind))
    model.save_pretrained(folder / "base" / "model")
    cell = folder / "cell"
    cell.mkdir()
    task = some_task(TRAIN, f"data.sequence_length={LENGTH}")
    write_task_file(folder, task_file(task, "cell", model=("base", "key")))
    write_json(cell / "engine.json", {"zero": zero})
    write_json(cell / "record.json", WRONG)
    write_done(cell, "key", ["record.json", "engine.json"])
    return model


@pytest.mark.parametrize("zero", [0, 3])
def test_the_weights_of_the_base_model_go_before_the_record(tmp_path: Path, zero: int) -> None:
    model = run_of(tmp_path, "llama", zero)
    record = read_training(tmp_path, ("cell", "key"))
    parameters = sum(p.numel() for p in model.parameters()) if zero == 3 else WRONG["parameters"]
    expected = {"flops_per_token": model_flops_per_token(model, LENGTH), "parameters": parameters}
    assert record == WRONG | expected


def test_without_the_base_model_the_record_stands(tmp_path: Path) -> None:
    run_of(tmp_path, "gpt2", 3)
    (tmp_path / "base" / "model" / "model.safetensors").unlink()
    assert read_training(tmp_path, ("cell", "key")) == WRONG
    assert read_training(tmp_path, ("cell", "another key")) is None
