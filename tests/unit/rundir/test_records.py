"""What a call of a sweep leaves about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hpcscale.config.profile import SiteProfile
from hpcscale.errors import ConfigError
from hpcscale.plan.kinds import TRAIN
from hpcscale.rundir.records import Call, environment, write_records, write_task_files
from hpcscale.rundir.task_file import read_task_file
from planning import some_task


def call(file: Path, *overrides: str) -> Call:
    resolved: dict[str, object] = {"name": "a", "root": "/runs"}
    return Call(file, overrides, resolved, "slurm", "bf16", SiteProfile(name="here"))


def test_a_call_can_be_repeated_from_its_records(tmp_path: Path) -> None:
    file, run = tmp_path / "mine.yaml", tmp_path / "run"
    file.write_text("name: a  # a comment\n")
    run.mkdir()
    write_records(run, call(file, "seeds=[1]"))
    write_records(run, call(file, "seeds=[2]"))
    assert (run / "sweep.yaml").read_text() == file.read_text()
    assert yaml.safe_load((run / "config.yaml").read_text()) == {"name": "a", "root": "/runs"}
    site = SiteProfile.model_validate(yaml.safe_load((run / "site.yaml").read_text()))
    assert site == SiteProfile(name="here")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["overrides"] == ["seeds=[2]"]
    assert (manifest["executor"], manifest["precision"], manifest["site"]) == (
        "slurm",
        "bf16",
        "here",
    )
    calls = [json.loads(line) for line in (run / "calls.jsonl").read_text().splitlines()]
    assert [one["overrides"] for one in calls] == [["seeds=[1]"], ["seeds=[2]"]]


def test_a_run_directory_can_be_swept_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: a\n")
    write_records(tmp_path, call(tmp_path / "sweep.yaml"))
    assert (tmp_path / "sweep.yaml").read_text() == "name: a\n"


def test_a_run_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_records(tmp_path / "nowhere", call(tmp_path / "a.yaml"))


def test_the_environment_is_recorded_without_its_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    found = environment()
    assert "secret-token" not in json.dumps(found)
    assert found["packages"]["numpy"]


def test_a_task_that_is_planned_again_has_no_marker_of_an_earlier_end(tmp_path: Path) -> None:
    file = some_task(TRAIN).file()
    write_task_files(tmp_path, [file])
    for name in ("done.json", "spent.json", "failed.json"):
        (tmp_path / file.id / name).write_text("{}")
    write_task_files(tmp_path, [file])
    assert read_task_file(tmp_path, file.id) == file
    left = {path.name for path in (tmp_path / file.id).iterdir()}
    assert left == {"task.json", "failed.json"}
