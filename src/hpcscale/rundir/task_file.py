"""``task.json``: what a task is, what decides its result, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hpcscale.atomic import read_json, write_text
from hpcscale.config.resources import StageName
from hpcscale.errors import TaskError
from hpcscale.rundir.layout import TASK
from hpcscale.rundir.spec import Spec, read_spec

S = TypeVar("S", bound=Spec)


class Input(BaseModel):
    """A task that another reads."""

    model_config = ConfigDict(frozen=True)

    id: str
    key: str


class TaskFile(BaseModel):
    """decides: values of the spec that, with the keys of the inputs, make the key. params: its
    other values. inputs: by label."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    kind: str
    stage: StageName
    key: str
    decides: dict[str, object]
    params: dict[str, object]
    inputs: dict[str, tuple[Input, ...]]

    def input_ids(self, label: str) -> list[str]:
        return [entry.id for entry in self.inputs.get(label, ())]

    def spec(self, kind: type[S]) -> S:
        """Raises TaskError for values that this version does not write."""
        return read_spec(kind, self.decides, self.params, Path(self.id) / TASK)


def read_task_file(run_dir: Path, task_id: str) -> TaskFile:
    """Raises TaskError where the run directory has no such task, or its file is damaged."""
    path = run_dir / task_id / TASK
    if not path.exists():
        raise TaskError(f"{run_dir} has no task {task_id}; `hpcscale status {run_dir}` lists them")
    try:
        return TaskFile.model_validate(read_json(path))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise TaskError(
            f"{path} is damaged (`{field}`); delete it and run the same `hpcscale sweep` again"
        ) from None


def find_task_file(run_dir: Path, task_id: str) -> TaskFile | None:
    """As ``read_task_file``, but None where the run directory has no such task."""
    exists = (run_dir / task_id / TASK).exists()
    return read_task_file(run_dir, task_id) if exists else None


def write_task_file(run_dir: Path, file: TaskFile) -> None:
    """Write the file, unless it already has this content."""
    path = run_dir / file.id / TASK
    text = json.dumps(file.model_dump(mode="json"), indent=2)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
