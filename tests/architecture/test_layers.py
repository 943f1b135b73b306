"""The code keeps its layers, its single importers, and its light start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "hpcscale"
ANALYSIS = Path(__file__).parents[2] / "analysis" / "scalinglaws"
#: Lowest first; a layer imports only itself and what stands before it.
LAYERS = (
    "errors types units atomic config plugins rundir data model train influence selection "
    "evaluate doctor plan results cluster worker backends opened preview sweep tools cli"
).split()
ONE_IMPORTER = {
    "submitit": "cluster/executor.py",
    "deepspeed": "train/engine_deepspeed.py",
    "datasets": "data/corpora.py",
}
HEAVY = "torch transformers datasets deepspeed pandas pyarrow matplotlib scipy submitit".split()
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too, type-checking blocks apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide layers"
            assert node.module is not None
            yield node.module


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "errors"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_layer_imports_only_those_under_it(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path):
        if module.split(".")[0] == "hpcscale":
            other = layer_of(module)
            assert LAYERS.index(other) <= LAYERS.index(own), f"{path} imports {module}"


def test_the_run_directory_knows_no_torch_and_no_scheduler() -> None:
    for path in SOURCE.glob("rundir/*.py"):
        known = {module.split(".")[0] for module in imports(path)}
        assert not known & {"torch", "transformers", "submitit", "subprocess"} - (
            {"subprocess"} if path.name == "records.py" else set()  # git's commit
        ), path


def test_file_names_of_a_run_directory_are_written_once() -> None:
    """Others take them from rundir/layout.py; DONE is that of atomic.py."""
    layout = ast.parse((SOURCE / "rundir" / "layout.py").read_text(encoding="utf-8"))
    names = {
        node.value.value
        for node in layout.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if "." in str(node.value.value)
    } | {"done.json"}
    names.remove("manifest.json")  # token stores and checkpoints have one too
    assert "task.json" in names
    for path in FILES:
        if path.name in ("layout.py", "atomic.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        written = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not written & names, f"{path}: {written & names}"


def test_one_cell_is_followed_in_few_files() -> None:
    """docs/architecture.md lists them."""
    text = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("## To follow one cell")[1].split("**A token budget**")[0]
    files = [SOURCE / name for name in re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert 8 <= len(files) <= 12
    assert lines <= 2000, lines


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_one_file_imports(package: str) -> None:
    importers = [
        str(path.relative_to(SOURCE))
        for path in FILES
        if any(module.split(".")[0] == package for module in imports(path))
    ]
    assert importers == [ONE_IMPORTER[package]]


def test_every_table_is_written_by_the_function_that_flushes_it() -> None:
    writers = [
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if "write_table(" in path.read_text(encoding="utf-8")
    ]
    # The corpora write rows into a folder that is deleted at once.
    assert writers == ["atomic.py", "data/corpora.py"]


def test_only_the_model_layer_and_the_check_of_token_ids_know_transformers() -> None:
    for path in FILES:
        if any(module.split(".")[0] == "transformers" for module in imports(path)):
            own = path.relative_to(SOURCE)
            assert own.parts[0] == "model" or own.as_posix() == "data/transformers_ids.py", path


def test_the_analysis_knows_neither_hpcscale_nor_torch() -> None:
    allowed = {"numpy", "scipy", "pandas", "matplotlib", "scalinglaws"} | sys.stdlib_module_names
    for path in sorted(ANALYSIS.rglob("*.py")):
        for module in imports(path):
            assert module.split(".")[0] in allowed, f"{path} imports {module}"


@pytest.mark.parametrize(
    "module",
    [
        "hpcscale.cli.main",
        "hpcscale.config.load",
        "hpcscale.sweep",
        "hpcscale.preview.checks",
        "hpcscale.selection.registry",
    ],
)
def test_nothing_heavy_is_imported_to_start_or_to_plan(module: str) -> None:
    code = (
        f"import {module}, sys; from hpcscale.selection.registry import available; "
        f"[p.load() for p in available().values()]; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*FILES, *sorted(ANALYSIS.rglob("*.py"))], ids=str)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_nothing_executable_is_read() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for word in ("pickle.load", "allow_pickle=True", "yaml.load(", "weights_only=False"):
            assert word not in text, f"{path}: {word}"
