"""Sections of the sweep file, adapted to single stages."""

from __future__ import annotations

from hpcscale.config.sweep import SweepConfig
from hpcscale.config.train import TrainConfig
from hpcscale.plan.fingerprints import absolute_paths, absolute_source
from hpcscale.plan.specs import Sequences


def sequences(config: SweepConfig, precision: str) -> Sequences:
    """How tokens become sequences. precision: resolved, fp32 or bf16 or fp16."""
    data = config.data
    return Sequences.model_validate(
        {
            "sequence_length": data.sequence_length,
            "packing": data.packing,
            "precision": precision,
        }
    )


def pretraining(config: SweepConfig) -> TrainConfig:
    """The train section with the values that ``model.pretrain`` gives."""
    pretrain = config.model.pretrain
    names = ("lr", "warmup", "schedule", "min_lr_ratio")
    return overridden(config.train, {name: getattr(pretrain, name) for name in names})


def proxy_training(config: SweepConfig) -> TrainConfig:
    """The train section with the values that ``influence.proxy`` gives."""
    proxy = config.influence.proxy
    names = ("lr", "warmup", "schedule")
    return overridden(config.train, {name: getattr(proxy, name) for name in names})


def overridden(train: TrainConfig, given: dict[str, object]) -> TrainConfig:
    """The train section with the values of ``given`` that are not None."""
    values = {key: value for key, value in given.items() if value is not None}
    if train.schedule == "wsd-branch":
        values = {"schedule": "wsd"} | values  # one run has one budget
    if "lr" in values:
        values |= {"lr_scaling": "none", "lr_reference_batch": None}
    return train.model_copy(update=values)


def resolved(config: SweepConfig, root: str) -> dict[str, object]:
    """The sweep file with every default and override, which can be read from any directory.

    root: the absolute path of the folder that the run directory is in.
    """
    values = config.plain()
    for spec in values["data"].values():
        if isinstance(spec, dict) and spec["path"]:
            spec["path"] = absolute_paths(spec["path"])
    for part in (values["model"], values["tokenizer"]):
        if part["source"]:
            part["source"] = absolute_source(part["source"])
    return values | {"root": root}
