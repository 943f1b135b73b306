"""The spec of a task: its parameters as a frozen model for each kind, kept in ``task.json``.

A field decides the task's result, and is then part of its key, unless it is marked as runtime, as
a batch size, a path or a label is. ``task.json`` holds fields that decide under ``decides``, and
the others under ``params``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from hpcscale.config.types import Section
from hpcscale.errors import TaskError

Json: TypeAlias = Mapping[str, object]
_P = TypeVar("_P", bound="Part")
_S = TypeVar("_S", bound="Spec")


@dataclass(frozen=True)
class Mark:
    """How a field is written. runtime: the result does not depend on it. optional: it is left out
    where it is None. flat: the fields of this part are written on the level of the others. name:
    its name in the file, where it differs."""

    runtime: bool = False
    optional: bool = False
    flat: bool = False
    name: str | None = None


RUNTIME = Mark(runtime=True)
OPTIONAL = Mark(optional=True)
FLAT = Mark(flat=True)


class Part(BaseModel):
    """Fields that several specs share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def decides(self) -> dict[str, object]:
        """The fields that decide a result, as JSON."""
        return self._written(runtime=False)

    def runtime(self) -> dict[str, object]:
        """The other fields, as JSON."""
        return self._written(runtime=True)

    @classmethod
    def read(cls: type[_P], decides: Json, runtime: Json) -> _P:
        """The reverse of ``decides`` and ``runtime``. Raises pydantic's ValidationError."""
        values: dict[str, object] = {}
        for field, info in cls.model_fields.items():
            mark = _mark(info)
            if mark.flat:
                values[field] = _part(info).read(decides, runtime)
            elif (name := mark.name or field) in (given := runtime if mark.runtime else decides):
                values[field] = given[name]
        return cls.model_validate(values)

    def _written(self, runtime: bool) -> dict[str, object]:
        found: dict[str, object] = {}
        plain = self.model_dump(mode="json")
        for field, info in type(self).model_fields.items():
            mark, value = _mark(info), getattr(self, field)
            if mark.flat:
                found |= value.runtime() if runtime else value.decides()
            elif mark.runtime == runtime and not (mark.optional and value is None):
                found[mark.name or field] = _json(value, plain[field], runtime)
        return found


class Spec(Part):
    """The parameters of a task of one kind."""


def read_spec(spec: type[_S], decides: Json, runtime: Json, place: object) -> _S:
    """The spec of a task file. Raises TaskError naming ``place`` and the field."""
    try:
        return spec.read(decides, runtime)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        raise TaskError(
            f"{place}: `{field}` is not what this version of hpcscale writes: {fault['msg']}; run "
            "the same `hpcscale sweep` again, which writes the file again"
        ) from None


def _json(value: object, plain: object, runtime: bool) -> object:
    """A value of a field. In a key, a section leaves out later fields at their defaults."""
    if runtime:
        return plain
    if isinstance(value, Section):
        return value.deciding()
    return value.decides() if isinstance(value, Part) else plain


def _mark(info: FieldInfo) -> Mark:
    return next((found for found in info.metadata if isinstance(found, Mark)), Mark())


def _part(info: FieldInfo) -> type[Part]:
    assert isinstance(info.annotation, type)
    assert issubclass(info.annotation, Part)
    return info.annotation
