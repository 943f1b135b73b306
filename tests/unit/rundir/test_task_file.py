"""``task.json`` on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcscale.errors import TaskError
from hpcscale.plan.kinds import TRAIN
from hpcscale.rundir.task_file import TaskFile, find_task_file, read_task_file, write_task_file
from planning import some_task, task_file


@pytest.fixture
def file() -> TaskFile:
    return task_file(some_task(TRAIN), "cells/a", model=("base/model", "abc"))


def test_a_file_is_read_as_it_was_written(tmp_path: Path, file: TaskFile) -> None:
    write_task_file(tmp_path, file)
    assert read_task_file(tmp_path, "cells/a") == file
    assert file.input_ids("model") == ["base/model"]
    assert file.input_ids("state") == []


def test_an_equal_file_is_left_alone(tmp_path: Path, file: TaskFile) -> None:
    write_task_file(tmp_path, file)
    path = tmp_path / "cells" / "a" / "task.json"
    before = path.stat().st_ino
    write_task_file(tmp_path, file)
    assert path.stat().st_ino == before
    write_task_file(tmp_path, file.model_copy(update={"key": "other"}))
    assert read_task_file(tmp_path, "cells/a").key == "other"


def test_a_task_that_is_not_there_is_none_or_an_error(tmp_path: Path) -> None:
    assert find_task_file(tmp_path, "cells/a") is None
    with pytest.raises(TaskError, match="has no task cells/a; `hpcscale status"):
        read_task_file(tmp_path, "cells/a")


@pytest.mark.parametrize(
    ("damage", "said"),
    [({"key": None}, r"is damaged \(`key`\); delete it"), ({"inputs": {"pool": 3}}, r"`inputs\.")],
)
def test_a_damaged_file_names_its_field(
    tmp_path: Path, file: TaskFile, damage: dict[str, object], said: str
) -> None:
    write_task_file(tmp_path, file)
    path = tmp_path / "cells" / "a" / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    for read in (read_task_file, find_task_file):
        with pytest.raises(TaskError, match=said) as caught:
            read(tmp_path, "cells/a")
        assert str(path) in str(caught.value)


def test_half_a_file_is_an_error(tmp_path: Path, file: TaskFile) -> None:
    write_task_file(tmp_path, file)
    path = tmp_path / "cells" / "a" / "task.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(TaskError, match=r"task\.json"):
        read_task_file(tmp_path, "cells/a")
