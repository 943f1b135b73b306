"""A field that a later version adds leaves the keys of finished work as they are."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import create_model

from hpcscale.config.influence import ProjectionConfig
from hpcscale.config.load import load_sweep
from hpcscale.config.model import Shape
from hpcscale.config.sweep import SweepConfig
from hpcscale.config.train import TrainConfig
from hpcscale.config.types import Section
from hpcscale.plan.specs import _FREE
from hpcscale.selection.perplexity import PerplexityParams
from hpcscale.selection.tracin import TracinParams
from planning import SWEEPS, tasks_of

SWEEP = SWEEPS / "influence.yaml"
#: Each section that stands whole in a key, with values that it may have, and the fields that came
#: after its keys were pinned, at their defaults: one that changes gives a key to other results.
SECTIONS: list[tuple[type[Section], dict[str, Any], dict[str, Any]]] = [
    (Shape, {"layers": 1, "width": 8, "heads": 2}, {}),
    (ProjectionConfig, {}, {}),
    (PerplexityParams, {"keep": "low", "rate": 0.5}, {}),
    (TracinParams, {}, {}),
]
TRAIN_LATER = {"on_nonfinite": "stop"}


class Newer(TrainConfig):
    """The train section of a later version."""

    pinned: ClassVar = TrainConfig.pinned
    z_loss: float = 0.0


def keys(config: SweepConfig) -> dict[str, str]:
    return {task.name: task.key for task in tasks_of(config).graph}


def test_a_new_field_of_train_is_in_a_key_where_it_is_not_at_its_default() -> None:
    config = load_sweep(SWEEP, ("train.schedule=wsd-branch", "train.warmup=2k"))
    train = config.train.model_dump()
    plain, same, other = (
        keys(config.model_copy(update={"train": section}))
        for section in (config.train, Newer(**train), Newer(**train, z_loss=1e-4))
    )
    assert same == plain
    moved = {name.partition("/")[0] for name in plain if other[name] != plain[name]}
    assert {"base", "influence", "trunks", "cells", "evaluations"} <= moved
    assert not {"data", "tokenizer"} & moved


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_field_at_its_default_counts_alike_said_or_not(schedule: str) -> None:
    config = load_sweep(SWEEP, (f"train.schedule={schedule}",))
    said = load_sweep(SWEEP, (f"train.schedule={schedule}", "train.on_nonfinite=stop"))
    skipping = load_sweep(SWEEP, (f"train.schedule={schedule}", "train.on_nonfinite=skip"))
    assert keys(said) == keys(config)
    assert keys(skipping) != keys(config)


@pytest.mark.parametrize(("kind", "values", "later"), SECTIONS, ids=lambda v: str(v)[:40])
def test_a_new_field_of_another_section_does_the_same(
    kind: type[Section], values: dict[str, Any], later: dict[str, Any]
) -> None:
    newer: Any = create_model("Newer", __base__=kind, extra=(int, 3))
    newer.pinned = kind.pinned
    assert newer(**values).deciding() == kind(**values).deciding()
    assert newer(**values, extra=4).deciding() == kind(**values).deciding() | {"extra": 4}
    assert kind.pinned is not None
    fields = kind.model_fields
    assert {n: fields[n].default for n in fields.keys() - kind.pinned} == later


def test_fields_that_are_left_out_keep_their_defaults() -> None:
    fields = TrainConfig.model_fields
    later = fields.keys() - TrainConfig.pinned - _FREE - {"precision"}
    assert {name: fields[name].default for name in later} == TRAIN_LATER


def test_parameters_of_a_method_elsewhere_are_all_in_the_key() -> None:
    class Elsewhere(TracinParams):
        share: float = 0.5

    assert Elsewhere().deciding() == Elsewhere().plain()
