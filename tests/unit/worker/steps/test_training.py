"""The size of a model in its record is that before an engine took its weights apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hpcscale.atomic import read_json
from hpcscale.model.flops import model_flops_per_token
from hpcscale.plan.kinds import TRAIN
from hpcscale.train.distributed import Ranks
from hpcscale.train.loop import TrainResult
from hpcscale.worker.steps import training
from planning import context_of, some_task
from training import LENGTH, make_store, prepare, settings_of


def test_parameters_and_flops_are_those_before_zero_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "store")
    model, stream, _ = prepare(tmp_path / "run", settings_of())
    parameters = sum(p.numel() for p in model.parameters())
    flops = model_flops_per_token(model, LENGTH)

    def train(context: Any, model: torch.nn.Module, *rest: Any, **more: Any) -> TrainResult:
        for parameter in model.parameters():
            parameter.data = torch.empty(0)  # as DeepSpeed does at stage 3
        return TrainResult(10, 1, 1.0, 1.0, 10.0, 0, 0.0, None, 0, 0, None)

    monkeypatch.setattr(training, "_train", train)
    context = context_of(tmp_path, some_task(TRAIN), "run")
    training.train_and_save(context, model, stream, Ranks(), {}, save=False)
    record = read_json(context.directory / training.RECORD)
    assert (record["parameters"], record["flops_per_token"]) == (parameters, flops)
    assert parameters > 0
