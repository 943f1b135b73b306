"""Run directories of version 0.1.0, moved to another folder: nothing is computed again.

``tests/data/README.md`` says how they were made.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results.collect import collect
from hpcscale.rundir.layout import RESULTS
from hpcscale.rundir.task_file import read_task_file
from hpcscale.sweep import open_sweep
from support import Run

ARCHIVE = Path(__file__).parents[1] / "data" / "version-0.1.0.tar.xz"
SWEEPS = ["plain", "branches"]
MORE = {"plain": "budgets=[1k, 2k, 4k, 5k]", "branches": "budgets=[1k, 2k, 3k]"}
#: Names of what a further budget needs.
NEW = {
    "plain": {
        f"{part}/{method}-5k-s0"
        for part in ("selections", "cells", "evaluations")
        for method in ("random", "middle")
    },
    "branches": {
        f"{part}/{method}-{last}"
        for part, last in (
            ("selections", "3k-s0"),
            ("trunks", "s0/to-2.304k"),
            ("cells", "3k-s0"),
            ("evaluations", "3k-s0"),
        )
        for method in ("random", "near")
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user of the earlier version moved sweep files, corpus and run directories."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    return tmp_path


def markers(run: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the done marker of each task, the analysis apart."""
    return {
        str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.rglob("done.json")
        if path.parent.name != "analysis"
    }


def losses(run: Path) -> dict[tuple[str, int], float]:
    with open(run / "analysis" / RESULTS, encoding="utf-8") as handle:
        return {(r["method"], int(r["tokens"])): float(r["loss"]) for r in csv.DictReader(handle)}


@pytest.mark.parametrize("name", SWEEPS)
def test_nothing_starts(name: str, folder: Path, hpcscale: Run) -> None:
    run = folder / "runs" / name
    before, results = markers(run), (run / "analysis" / RESULTS).read_bytes()
    assert len(before) > 20
    done = hpcscale("sweep", f"{name}.yaml", "--executor", "debug")
    assert "nothing to start" in done.stdout
    assert markers(run) == before
    assert (run / "analysis" / RESULTS).read_bytes() == results


@pytest.mark.parametrize("name", SWEEPS)
def test_the_same_losses_are_read_from_it(name: str, folder: Path) -> None:
    run = folder / "runs" / name
    frames, missing = collect(run, read_task_file(run, "analysis").spec(AnalyseSpec))
    assert not missing
    rows = frames[RESULTS].to_dict("records")
    assert {(row["method"], row["tokens"]): row["loss"] for row in rows} == losses(run)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_further_budget_starts_its_own_tasks_alone(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    plan = open_sweep(Path(f"{name}.yaml"), (MORE[name],), "debug").plan()
    assert {task.name for task in plan.start} == NEW[name] | {"analysis"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_further_budget_goes_on_from_it(name: str, folder: Path, hpcscale: Run) -> None:
    run = folder / "runs" / name
    before, known = markers(run), losses(run)
    hpcscale("sweep", f"{name}.yaml", "--executor", "debug", "--set", MORE[name])
    after = markers(run)
    # A segment of the trunk gives its state away to the next one.
    given = {path for path in before if path.startswith("trunks/")} - after.keys()
    assert {path: after[path] for path in before.keys() - given} == {
        path: before[path] for path in before.keys() - given
    }
    for path in given:
        assert (run / path).with_name("spent.json").read_bytes() == before[path][0]
    assert {path.rpartition("-")[0] for path in after.keys() - before.keys()} == NEW[name]
    found = losses(run)
    assert known.items() < found.items()
    assert len(found) == len(known) + 2
