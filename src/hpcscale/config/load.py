"""Read a YAML file and ``--set`` overrides as a validated model; errors name the line."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hpcscale.config.sweep import SweepConfig
from hpcscale.config.yaml_lines import Location, load_yaml, parse_scalar
from hpcscale.errors import ConfigError

_Model = TypeVar("_Model", bound=BaseModel)
_SHOWN = 10


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read and check one sweep file. Raises ConfigError with every fault, one line each."""
    return load_model_file(SweepConfig, path, overrides)


def load_model_file(kind: type[_Model], path: Path, overrides: Iterable[str] = ()) -> _Model:
    """Read ``path`` as ``kind``, the overrides (``train.lr=3e-4``) applied on top."""
    data, places = _read(path, overrides)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(kind, error, data, places, path)) from None


def place_of(path: Path, overrides: Iterable[str], location: Location) -> str:
    """Where the value at ``location`` was given: file and line, or the override."""
    _, places = _read(path, overrides)
    parts = (location[:depth] for depth in range(len(location), 0, -1))
    return next((places[part] for part in parts if part in places), str(path))


def _read(path: Path, overrides: Iterable[str]) -> tuple[dict[str, Any], dict[Location, str]]:
    """What a file and overrides say, and where each value was given."""
    data, lines = load_yaml(path)
    places: dict[Location, str] = {place: f"{path}:{line}" for place, line in lines.items()}
    for override in overrides:
        _apply(data, override, places)
    return data, places


def _apply(data: dict[str, Any], override: str, places: dict[Location, str]) -> None:
    dotted, equals, text = override.partition("=")
    keys = [int(part) if part.isdigit() else part for part in dotted.strip().split(".")]
    if not equals or not all(str(key) for key in keys):
        raise ConfigError(f"--set {override}: write it as --set train.lr=3e-4")
    target: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(target, list) and isinstance(key, int) and key < len(target):
            pass
        elif isinstance(target, dict) and isinstance(key, str):
            target.setdefault(key, {})
        else:
            where = ".".join(map(str, keys[:depth]))
            raise ConfigError(f"--set {override}: `{where}` has no part `{key}`")
        if last:
            target[key] = parse_scalar(text)
        elif not isinstance(target[key], (dict, list)):
            target[key] = {}
        target = target[key]
        place = tuple(keys[: depth + 1])
        if last or place not in places:
            places[place] = f"--set {override}"


def _explain(
    kind: type[BaseModel],
    error: ValidationError,
    data: Any,
    places: dict[Location, str],
    path: Path,
) -> str:
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:_SHOWN]:
        loc, depth = fault["loc"], _depth_in(data, fault["loc"])
        missing = fault["type"] == "missing"
        place = places.get(loc[:depth], str(path))
        name = ".".join(map(str, loc[: depth + 1 if missing else max(depth, 1)]))
        lines.append(f"{place}: {_sentence(kind, fault, name, loc)}")
    if len(faults) > _SHOWN:
        lines.append(f"... and {len(faults) - _SHOWN} more")
    return "\n".join(dict.fromkeys(lines))


def _sentence(kind: type[BaseModel], fault: Any, name: str, loc: Location) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = _keys_at(kind, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return f"`{name}` is not a known key; {hint}valid keys here: {', '.join(sorted(known))}"
    if fault["type"] == "missing":
        return f"`{name}` is missing; it has no default"
    value = fault["input"]
    shown = f" (found {value!r})" if isinstance(value, (str, int, float)) else ""
    if shown and repr(value) in message:
        shown = ""
    return f"`{name}`: {message}{shown}" if name else message


def _depth_in(data: Any, loc: Location) -> int:
    """How many steps of ``loc`` exist in the data; pydantic adds steps for unions."""
    for depth, step in enumerate(loc):
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(loc)


def _keys_at(kind: Any, loc: Location) -> list[str]:
    for step in loc:
        kinds = _models_in(kind)
        if isinstance(step, int) or not kinds:
            continue
        field = kinds[0].model_fields.get(str(step))
        kind = field.annotation if field else kind
    return [name for model in _models_in(kind)[:1] for name in model.model_fields]


def _models_in(kind: Any) -> list[type[BaseModel]]:
    """The pydantic models inside Optional, tuple and Annotated types."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return [kind] if issubclass(kind, BaseModel) else []
    return [model for part in typing.get_args(kind) for model in _models_in(part)]
