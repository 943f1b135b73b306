"""Find a selection method by the name in the YAML file."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from hpcscale.config.sweep import MethodConfig
from hpcscale.errors import ConfigError
from hpcscale.selection.method import SelectionMethod

GROUP = "hpcscale.selection"


@cache
def available() -> dict[str, EntryPoint]:
    """Installed methods by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def load_method(config: MethodConfig) -> SelectionMethod:
    """The method with its parameters checked.

    Raises ConfigError for an unknown method, a plug-in that does not load, or wrong parameters.
    """
    methods = available()
    if config.method not in methods:
        near = difflib.get_close_matches(config.method, methods, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ConfigError(
            f"selection `{config.name}`: there is no method `{config.method}`; {hint}"
            f"installed: {', '.join(methods)}"
        )
    try:
        kind = methods[config.method].load()
    except Exception as error:
        raise ConfigError(
            f"selection `{config.name}`: the method `{config.method}` "
            f"({methods[config.method].value}) does not load: {error!r}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, SelectionMethod)):
        raise ConfigError(
            f"selection `{config.name}`: {methods[config.method].value} is not a SelectionMethod"
        )
    try:
        return kind(kind.Params.model_validate(config.params))
    except ValidationError as error:
        raise ConfigError(_faults(config, kind, error)) from None


def _faults(config: MethodConfig, kind: type[SelectionMethod], error: ValidationError) -> str:
    known = ", ".join(kind.Params.model_fields) or "none"
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        key = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, kind.Params.model_fields, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            message = f"not a parameter of `{config.method}`; {hint}its parameters: {known}"
        lines.append(f"selection `{config.name}`: {f'`{key}`: ' if key else ''}{message}")
    return "\n".join(lines)
