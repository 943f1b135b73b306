"""YAML with line numbers, and without YAML 1.1's surprises.

``4:30:00`` stays text (YAML 1.1 reads a number in base 60), ``3e-4`` is a float, ``no`` is text,
and a repeated key is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hpcscale.errors import ConfigError

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), list(_first)
    )


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The mapping in ``path`` and the line of each of its values, counted from 1.

    Raises ConfigError naming file and line when the file is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `ls sweeps/` shows the examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    lines: dict[Location, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = _value(loader, node, (), lines, path) if node else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected `key: value` lines, found {type(value).__name__}")
    return value, lines


def parse_scalar(text: str) -> Any:
    """One value as YAML reads it, for command-line overrides."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return _value(loader, node, (), {}, Path("--set")) if node else None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{text!r} is not a YAML value ({' '.join(str(error).split())})"
        ) from None


def _value(
    loader: _Loader, node: yaml.Node, place: Location, lines: dict[Location, int], path: Path
) -> Any:
    lines[place] = node.start_mark.line + 1
    if node.tag.startswith("tag:yaml.org,2002:python") or node.tag.startswith("!"):
        raise ConfigError(
            f"{path}:{lines[place]}: the tag {node.tag} is not allowed; write plain YAML"
        )
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            line = key_node.start_mark.line + 1
            if key in mapping:
                raise ConfigError(f"{path}:{line}: `{key}` occurs twice; delete one")
            here = (*place, key)
            mapping[key] = _value(loader, value_node, here, lines, path)
            lines[here] = line
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(loader, item, (*place, index), lines, path)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node)
