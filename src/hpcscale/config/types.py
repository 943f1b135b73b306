"""Field types of the sweep file: counts, durations and sizes as people write them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from hpcscale.units import parse_bytes, parse_count, parse_duration

Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1)]
# Written with its unit, since a bare number is read as minutes.
Seconds = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(lambda s: f"{s}s")]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    """A part of the sweep file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    #: The fields that a task's key holds at any value. Of fields that came later it holds only
    #: those that are not at their default, so that a new field leaves finished work valid; such a
    #: default never changes. None: all fields. A subclass does not inherit it.
    pinned: ClassVar[frozenset[str] | None] = None

    def plain(self) -> dict[str, Any]:
        """The section as JSON-ready values."""
        return self.model_dump(mode="json")

    def deciding(self) -> dict[str, Any]:
        """The section as a task's key holds it; ``pinned`` says which fields those are."""
        fields, pinned = type(self).model_fields, vars(type(self)).get("pinned")
        later = fields.keys() - pinned if pinned is not None else set()
        usual = {n for n in later if getattr(self, n) == fields[n].get_default()}
        return {name: value for name, value in self.plain().items() if name not in usual}


class NoParams(Section):
    """The plug-in takes no parameters."""
