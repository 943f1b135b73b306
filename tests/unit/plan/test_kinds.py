"""The table of kinds: each row is complete, wherever it is read."""

from __future__ import annotations

import importlib

import pytest

from hpcscale.config.resources import STAGES
from hpcscale.errors import TaskError
from hpcscale.plan.kinds import ANALYSE, KINDS, Passes, kind_of
from hpcscale.preview.cost import _tokens
from hpcscale.results.costs import _FLOPS
from planning import GOLDEN_SWEEPS, golden_tasks


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_has_a_step_and_a_stage(kind) -> None:  # type: ignore[no-untyped-def]
    step = importlib.import_module(f"hpcscale.worker.steps.{kind.step}")
    assert callable(step.run)
    assert kind.stage in STAGES
    assert kind_of(kind.name) is kind


def test_names_and_steps_are_told_apart() -> None:
    kinds = KINDS.values()
    assert len({kind.step for kind in kinds}) == len(kinds)
    assert [kind.name for kind in kinds] == list(KINDS)


def test_an_unknown_kind_is_named_with_those_that_there_are() -> None:
    with pytest.raises(TaskError, match="no tasks of kind `dream`; it has: tokenizer, store,"):
        kind_of("dream")


def test_the_analysis_alone_lies_at_a_fixed_place() -> None:
    assert [kind for kind in KINDS.values() if kind.fixed] == [ANALYSE]
    assert [kind for kind in KINDS.values() if kind.version is None] == [ANALYSE]


def test_every_kind_of_passes_is_counted_after_a_sweep() -> None:
    assert set(_FLOPS) == set(Passes)


def test_every_kind_of_passes_is_counted_before_a_sweep() -> None:
    counted = set()
    for name in GOLDEN_SWEEPS:
        tasks = golden_tasks(name)
        for task in tasks.graph:
            tokens = _tokens(tasks.shared.config, task)
            assert (tokens > 0) == (task.kind.passes is not Passes.NONE), task.name
            counted.add(task.kind.passes)
    # Scorers are of other packages: sweep/test_plugins.py runs one.
    assert counted == set(Passes) - {Passes.SCORER}
