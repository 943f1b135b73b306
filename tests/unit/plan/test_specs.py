"""Task files of every golden sweep: what the planner writes is what a worker reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.fingerprint import fingerprint
from hpcscale.errors import TaskError
from hpcscale.plan.kinds import KINDS, STORE, TRAIN, kind_of
from hpcscale.rundir.task_file import TaskFile, read_task_file, write_task_file
from hpcscale.worker.context import load_context
from planning import GOLDEN_SWEEPS, golden_tasks, some_task


@pytest.mark.parametrize("name", GOLDEN_SWEEPS)
def test_a_spec_that_is_written_as_json_and_read_is_the_same(name: str) -> None:
    for task in golden_tasks(name).every():
        file = TaskFile.model_validate(json.loads(json.dumps(task.file().model_dump(mode="json"))))
        kind = kind_of(file.kind)
        spec = file.spec(kind.spec)
        assert spec == task.spec, task.name
        assert kind.decides(spec) == file.decides, task.name
        inputs = {
            label: [entry.key for entry in found]
            for label, found in file.inputs.items()
            if label not in kind.unkeyed
        }
        of_file = {"kind": file.kind, "decides": kind.decides(spec), "inputs": inputs}
        assert fingerprint(of_file) == task.key, task.name


def test_golden_sweeps_have_tasks_of_every_kind_of_the_suite() -> None:
    found = {task.kind.name for name in GOLDEN_SWEEPS for task in golden_tasks(name).every()}
    # Those of other packages, which only a sweep with one of them has.
    assert set(KINDS) - found == {"scorer", "merge-scores", "filter"}


def broken(run_dir: Path, task: Any, part: str, change: dict[str, Any]) -> str:
    """The complaint of a worker that reads the task's file with ``change``; None: left out."""
    file = task.file()
    values = {k: v for k, v in (getattr(file, part) | change).items() if v is not None}
    write_task_file(run_dir, file.model_copy(update={part: values}))
    with pytest.raises(TaskError) as caught:
        load_context(run_dir, file.id)
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        (
            "decides",
            {"budget": None},
            "`budget` is not what this version of hpcscale writes",
        ),
        ("decides", {"budget": "much"}, "`budget` is not what this version of hpcscale writes"),
        ("decides", {"packing": "tetris"}, "`packing` is not what this version"),
        ("params", {"train": None}, "`train` is not what this version of hpcscale writes: Field"),
        ("decides", {"novelty": 1}, "novelty is not what this version of hpcscale reads"),
        ("decides", {"version": 99}, "version is not what this version of hpcscale reads"),
    ],
)
def test_a_file_of_another_version_is_refused_by_field(
    tmp_path: Path, part: str, change: dict[str, Any], said: str
) -> None:
    task = some_task(TRAIN)
    message = broken(tmp_path, task, part, change)
    assert f"{task.id}/task.json: {said}" in message
    assert "run the same `hpcscale sweep` again" in message


def test_a_file_as_it_was_planned_is_taken(tmp_path: Path) -> None:
    task = some_task(STORE)
    write_task_file(tmp_path, task.file())
    context = load_context(tmp_path, task.id, rank=1)
    assert (context.spec, context.kind, context.key, context.rank) == (
        task.spec,
        STORE,
        task.key,
        1,
    )
    assert read_task_file(tmp_path, task.id) == task.file()
