"""What earlier attempts say of the next: too little time to stop, and nodes that fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcscale.opened import Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.kinds import SELECT, TRAIN
from hpcscale.preview.reliability import reliability_lines
from planning import of_kind, open_plan

SITE = "name: there\ncpus_per_node: 8\nsignal_seconds: 15\n"


def sweep(folder: Path, *overrides: str) -> Sweep:
    return open_plan(folder, "resources.train.time=4h", *overrides, executor="slurm", site=SITE)


def attempted(opened: Sweep, task: AnyTask, **facts: object) -> None:
    folder = opened.run_dir / task.id
    folder.mkdir(parents=True, exist_ok=True)
    line = {"outcome": "done", "job": None, "lead_seconds": None, **facts}
    with open(folder / "attempts.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


@pytest.fixture(autouse=True)
def _no_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is not asked which nodes failed."""
    monkeypatch.setattr("hpcscale.backends.slurm.node_failures", lambda jobs: {})


def test_a_longer_lead_than_the_site_gives_is_told_with_what_to_write(tmp_path: Path) -> None:
    opened = sweep(tmp_path)
    (train,) = of_kind(opened.tasks.graph, TRAIN).values()
    attempted(opened, train, lead_seconds=15.0)
    assert reliability_lines(opened) == []
    attempted(opened, train, lead_seconds=47.0)
    (line,) = reliability_lines(opened)
    assert line.startswith("warning: train takes up to 47 s to stop")
    assert line.endswith("signal_seconds: 80 into the site profile")


def test_a_job_too_short_for_it_is_told_too(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "resources.train.time=4m")
    (train,) = of_kind(opened.tasks.graph, TRAIN).values()
    attempted(opened, train, lead_seconds=100.0)
    (line,) = reliability_lines(opened)
    assert (
        "signal_seconds: 150 into the site profile and resources.train.time: 10m00s or more" in line
    )


def test_what_trains_nothing_has_no_lead(tmp_path: Path) -> None:
    opened = sweep(tmp_path)
    (selection,) = of_kind(opened.tasks.graph, SELECT).values()
    attempted(opened, selection, lead_seconds=99.0)
    assert reliability_lines(opened) == []


def test_on_this_machine_nothing_is_signalled(tmp_path: Path) -> None:
    opened = open_plan(tmp_path)
    (train,) = of_kind(opened.tasks.graph, TRAIN).values()
    attempted(opened, train, lead_seconds=99.0)
    assert reliability_lines(opened) == []


def test_a_node_that_went_down_twice_under_killed_jobs_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failures(jobs: list[str]) -> dict[str, int]:
        assert jobs == ["5", "6"]
        return {"n1": 2, "n2": 1}

    opened = sweep(tmp_path)
    (train,) = of_kind(opened.tasks.graph, TRAIN).values()
    for job, outcome in (("5_0", "killed"), ("5_1", "killed"), ("6", "killed"), ("7", "done")):
        attempted(opened, train, job=job, outcome=outcome)
    monkeypatch.setattr("hpcscale.backends.slurm.node_failures", failures)
    (line,) = reliability_lines(opened)
    assert line == "excluded: n1, which went down two times or more under this sweep"
    assert opened.submission(opened.plan()).avoid == ("n1",)
