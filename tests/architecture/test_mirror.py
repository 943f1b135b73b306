"""Each module has a unit test beside it, is imported by a test, or is listed with what runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
#: Modules of fewer lines are covered with what they belong to.
SMALL = 40
#: Modules that no test imports, and the test that runs them.
COVERED = {
    "hpcscale.cli.analysis": "unit/cli/test_cli.py",
    "hpcscale.cli.analysis_options": "unit/cli/test_cli.py",
    "hpcscale.cli.data": "sweep/test_dry_run.py",
    "hpcscale.cli.doctor": "unit/doctor/test_model.py",
    "hpcscale.cli.evaluate": "sweep/test_local.py",
    "hpcscale.cli.plan_power": "sweep/test_plan_power.py",
    "hpcscale.cli.sweep": "sweep/test_local.py",
    "hpcscale.data.archives": "unit/data/test_damage.py",
    "hpcscale.data.hub_tokenizer": "unit/data/test_tokenizer.py",
    "hpcscale.data.windows": "unit/influence/test_exact.py",
    "hpcscale.influence.capture_blocks": "sweep/test_tracin.py",
    "hpcscale.influence.inspect": "sweep/test_tracin.py",
    "hpcscale.influence.row_files": "unit/influence/test_ways.py",
    "hpcscale.model.scratch": "unit/model/test_sizes.py",
    "hpcscale.model.unsupported": "unit/model/test_loading.py",
    "hpcscale.model.weights": "unit/model/test_loading.py",
    "hpcscale.plan.cells": "unit/plan/test_graph.py",
    "hpcscale.plan.data": "unit/plan/test_graph.py",
    "hpcscale.plan.models": "unit/plan/test_golden_keys.py",
    "hpcscale.plan.scores.perplexity": "unit/plan/test_graph.py",
    "hpcscale.plan.scores.plugin": "sweep/test_plugins.py",
    "hpcscale.plan.scores.requests": "unit/plan/test_golden_keys.py",
    "hpcscale.plan.scores.tracin": "unit/plan/test_golden_keys.py",
    "hpcscale.plan.settings": "unit/plan/test_graph.py",
    "hpcscale.plan.shared": "unit/plan/test_graph.py",
    "hpcscale.plugins": "sweep/test_plugins.py",
    "hpcscale.preview.power": "sweep/test_plan_power.py",
    "hpcscale.results.losses": "sweep/test_tables.py",
    "hpcscale.results.overlap": "sweep/test_tables.py",
    "hpcscale.selection.scorer": "sweep/test_plugins.py",
    "hpcscale.tools.evaluate": "sweep/test_local.py",
    "hpcscale.tools.plan_power": "sweep/test_plan_power.py",
    "hpcscale.tools.scores": "sweep/test_tracin.py",
    "hpcscale.tools.status": "sweep/test_local.py",
    "hpcscale.tools.validate": "unit/influence/test_validate_cli.py",
    "hpcscale.train.adam_moments": "distributed/test_moments.py",
    "hpcscale.train.restore": "unit/train/test_saving.py",
    "hpcscale.train.staging": "unit/train/test_saving.py",
    "hpcscale.train.state": "unit/train/test_saving.py",
    "hpcscale.worker.scores": "sweep/test_local.py",
    "hpcscale.worker.steps.evaluate": "sweep/test_local.py",
    "hpcscale.worker.steps.filter": "sweep/test_plugins.py",
    "hpcscale.worker.steps.perplexity": "sweep/test_local.py",
    "hpcscale.worker.steps.proxy": "sweep/test_tracin.py",
    "hpcscale.worker.steps.scorer": "sweep/test_plugins.py",
    "scalinglaws.checks": "unit/scalinglaws/test_read.py",
    "scalinglaws.compare.joint": "unit/scalinglaws/test_compare_nested.py",
    "scalinglaws.compare.notes": "unit/scalinglaws/test_compare.py",
    "scalinglaws.data_warnings": "unit/scalinglaws/test_read.py",
    "scalinglaws.diagnostics": "unit/scalinglaws/test_fit.py",
    "scalinglaws.figures.catalogue": "unit/scalinglaws/test_figures.py",
    "scalinglaws.page.content": "unit/scalinglaws/test_page.py",
    "scalinglaws.profile": "unit/scalinglaws/test_bootstrap.py",
    "scalinglaws.tabulate": "unit/scalinglaws/test_report.py",
    "scalinglaws.verdict": "unit/scalinglaws/test_report.py",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Each larger module's name, and where its unit test belongs."""
    for package in (ROOT / "src" / "hpcscale", ROOT / "analysis" / "scalinglaws"):
        for path in sorted(package.rglob("*.py")):
            large = len(path.read_text(encoding="utf-8").splitlines()) > SMALL
            if path.name == "__init__.py" or not large:
                continue
            inside = path.relative_to(package)
            folder = inside.parent if package.name == "hpcscale" else "scalinglaws" / inside.parent
            name = ".".join((package.name, *inside.with_suffix("").parts))
            yield name, TESTS / "unit" / folder / f"test_{path.name}"


def imported_by_tests() -> set[str]:
    """Modules that a test imports by name."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_each_module_has_a_test_or_is_listed_with_what_covers_it() -> None:
    imported = imported_by_tests()
    alone = {name for name, test in modules() if not test.exists() and name not in imported}
    assert not alone - COVERED.keys(), "add a unit test, or name the test that runs the module"
    assert not COVERED.keys() - alone, "these have a test by now: take them off the list"


@pytest.mark.parametrize("test", sorted(set(COVERED.values())))
def test_what_is_said_to_cover_a_module_exists(test: str) -> None:
    assert "def test_" in (TESTS / test).read_text(encoding="utf-8")
