"""No module needs itself by way of others, so that each can be read, tested and moved alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "src" / "hpcscale", ROOT / "analysis" / "scalinglaws"]
Graph = Mapping[str, set[str]]


def modules(packages: list[Path]) -> dict[str, Path]:
    """Each module's file by its dotted name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for package in packages
        for path in sorted(package.rglob("*.py"))
    }


def imported(tree: ast.Module, known: Mapping[str, Path], annotations: bool) -> Iterator[str]:
    """The modules of ``known`` that a file imports, inside functions too. ``annotations``: also
    those in blocks that only a type checker reads."""
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not annotations
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = inner if inner in known else node.module
                if found in known:
                    yield found


def import_graph(packages: list[Path], annotations: bool = False) -> dict[str, set[str]]:
    files = modules(packages)
    return {
        name: set(imported(ast.parse(path.read_text(encoding="utf-8")), files, annotations))
        - {name}
        for name, path in files.items()
    }


def reached(graph: Graph, start: str) -> set[str]:
    """What ``start`` imports, by way of others too."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for name in graph[stack.pop()] - found:
            found.add(name)
            stack.append(name)
    return found


def circles(graph: Graph) -> list[set[str]]:
    """Sets of modules that all need one another."""
    behind = {name: reached(graph, name) for name in graph}
    return [
        members
        for name in graph
        if name in behind[name]
        and min(members := {m for m in behind[name] if name in behind[m]}) == name
    ]


def told(found: list[set[str]], graph: Graph) -> str:
    lines = [
        f"{name} imports {', '.join(sorted(graph[name] & circle))}"
        for circle in found
        for name in sorted(circle)
    ]
    return "\n".join(["modules import one another in a circle:", *lines])


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not in annotations either: such a circle is a wall that was not drawn."""
    graph = import_graph(PACKAGES, annotations=True)
    assert len(graph) > 200
    found = circles(graph)
    assert not found, told(found, graph)


@pytest.mark.parametrize(
    ("back", "annotations", "expected"),
    [
        ("import house.low", False, [{"house.low", "house.high"}]),
        ("def f():\n    from house import low", False, [{"house.low", "house.high"}]),
        ("from house.low import x", False, [{"house.low", "house.high"}]),
        ("from house import other", False, []),
        ("if TYPE_CHECKING:\n    import house.low", False, []),
        ("if TYPE_CHECKING:\n    import house.low", True, [{"house.low", "house.high"}]),
    ],
)
def test_a_circle_is_found(
    back: str, annotations: bool, expected: list[set[str]], tmp_path: Path
) -> None:
    house = tmp_path / "house"
    house.mkdir()
    texts = {"__init__": "", "low": "from house import high", "high": back, "other": ""}
    for name, text in texts.items():
        (house / f"{name}.py").write_text(text)
    assert circles(import_graph([house], annotations)) == expected
