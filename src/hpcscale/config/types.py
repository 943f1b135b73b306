"""Field types of the sweep file: counts, durations and sizes as people write them."""

from __future__ import annotations

from typing import Annotated, Any

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

    def plain(self) -> dict[str, Any]:
        """The section as JSON-ready values."""
        return self.model_dump(mode="json")
