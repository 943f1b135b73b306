"""How a spec's fields are written, read back, and complained of."""

from __future__ import annotations

from typing import Annotated

import pytest

from hpcscale.errors import TaskError
from hpcscale.rundir.spec import FLAT, OPTIONAL, RUNTIME, Mark, Part, Spec, read_spec


class Inner(Part):
    length: int
    label: Annotated[str, RUNTIME] = "none"


class Outer(Spec):
    inner: Annotated[Inner, FLAT]
    whole: Inner
    given: Annotated[float, Mark(name="asked")]
    later: Annotated[int | None, OPTIONAL] = None
    batch: Annotated[int, RUNTIME]


def outer(**given: object) -> Outer:
    values = {"inner": Inner(length=3, label="x"), "whole": Inner(length=5), "given": 0.5}
    return Outer.model_validate({**values, "batch": 8, **given})


def test_what_decides_and_what_does_not_are_written_apart() -> None:
    spec = outer()
    assert spec.decides() == {"length": 3, "whole": {"length": 5}, "asked": 0.5}
    assert spec.runtime() == {"label": "x", "batch": 8}


def test_an_optional_field_is_left_out_while_it_is_none() -> None:
    assert "later" not in outer().decides()
    assert outer(later=0).decides()["later"] == 0


@pytest.mark.parametrize("given", [{}, {"later": 7}, {"batch": 1}])
def test_what_is_written_is_read_back(given: dict[str, object]) -> None:
    spec = outer(**given)
    assert Outer.read(spec.decides(), spec.runtime()) == spec


@pytest.mark.parametrize(
    ("decides", "runtime", "field"),
    [
        ({"length": None}, {}, "length"),
        ({"asked": "half"}, {}, "given"),
        ({"whole": {"length": "five"}}, {}, "whole.length"),
        ({}, {"batch": None}, "batch"),
    ],
)
def test_a_missing_or_mistyped_field_is_named_with_its_file(
    decides: dict[str, object], runtime: dict[str, object], field: str
) -> None:
    """None: the field is left out."""
    spec = outer()
    given = [
        {name: value for name, value in (whole | part).items() if value is not None}
        for whole, part in ((spec.decides(), decides), (spec.runtime(), runtime))
    ]
    with pytest.raises(TaskError) as caught:
        read_spec(Outer, given[0], given[1], "cells/a/task.json")
    message = str(caught.value)
    assert message.startswith(f"cells/a/task.json: `{field}` is not what this version")
    assert "run the same `hpcscale sweep` again" in message
