"""Records and lines that tasks left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcscale.atomic import write_done, write_json
from hpcscale.errors import TaskError
from hpcscale.rundir.reading import facts_of_kind, read_lines, read_record


def test_a_record_counts_under_its_key_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "record.json", {"x": 1})
    assert read_record(tmp_path, ("a", "key"), "record.json") is None
    write_done(tmp_path / "a", "key", ["record.json"])
    assert read_record(tmp_path, ("a", "key"), "record.json") == {"x": 1}
    assert read_record(tmp_path, ("a", "other"), "record.json") is None


def test_a_torn_last_line_is_left_out_and_another_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert list(read_lines(path)) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(TaskError, match=r"lines\.jsonl:2 is not JSON"):
        list(read_lines(path))


def test_facts_are_those_of_one_kind_and_of_done_tasks(tmp_path: Path) -> None:
    for name, kind in (("a", "proxy"), ("deep/b", "gradients"), ("c", "proxy"), ("d", "proxy")):
        folder = tmp_path / "influence" / name
        write_json(folder / "task.json", {"kind": kind})
        if name != "c":
            write_done(folder, "key", [], facts={"name": name})
    (tmp_path / "influence" / "d" / "done.json").write_text(json.dumps({})[:1])
    found = [
        [f["name"] for f in facts_of_kind(tmp_path, "influence", kind)]
        for kind in ("proxy", "gradients", "direct")
    ]
    assert found == [["a"], ["deep/b"], []]
