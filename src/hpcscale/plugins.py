"""Classes that other packages add by entry points."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from hpcscale.config.types import Section
from hpcscale.errors import ConfigError


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name."""
    return {point.name: point for point in sorted(entry_points(group=group))}


def load_class(
    group: str, name: str, base: type[Any], what: str, known: Iterable[str], place: str = ""
) -> type[Any]:
    """The class of the entry point ``name`` in ``group``.

    what: the noun for it in messages. known: the names that a message lists. place: what messages
    begin with. Raises ConfigError where it is not installed, does not load, or is not a subclass of
    ``base``.
    """
    points = installed(group)
    if name not in points:
        listed = list(known)
        near = difflib.get_close_matches(name, listed, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ConfigError(
            f"{place}there is no {what} `{name}`; {hint}installed: {', '.join(listed) or 'none'}"
        )
    try:
        found = points[name].load()
    except Exception as error:
        raise ConfigError(
            f"{place}the {what} `{name}` ({points[name].value}) does not load: {error!r}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{place}the {what} `{name}`: {points[name].value} is not a {base.__name__}"
        )
    return found


def checked(params: type[Section], given: Mapping[str, Any], place: str) -> Section:
    """The validated parameters of a plug-in. Raises ConfigError with a line for each fault."""
    try:
        return params.model_validate(dict(given))
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_context=False):
            key = ".".join(map(str, fault["loc"]))
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key, params.model_fields, n=1)
                hint = f"did you mean `{near[0]}`? " if near else ""
                known = ", ".join(params.model_fields) or "none"
                message = f"there is no such parameter; {hint}its parameters: {known}"
            lines.append(f"{place}: {f'`{key}`: ' if key else ''}{message}")
        raise ConfigError("\n".join(lines)) from None
