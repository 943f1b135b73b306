"""Segments of trunks on disk: what is behind a cell, and when a state is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.plan.kinds import EVALUATE, TRAIN, TRUNK
from hpcscale.rundir.records import write_task_files
from hpcscale.rundir.state import State, observe
from hpcscale.rundir.task_file import write_task_file
from hpcscale.rundir.trunks import release, segments_behind
from planning import QUICKSTART, plan_of, some_task, task_file

BRANCH = ("train.warmup=8k", "train.schedule=wsd-branch")
SMALL = (*BRANCH, "selection=[random]", "seeds=[0]", "budgets=[64k, 128k]")
FIRST, SECOND = "trunks/random-s0/to-1k-00000000", "trunks/random-s0/to-2k-00000000"
CELL = "cells/random-2k-s0-00000000"


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Path]:
    """Two segments, both with a state, and the first one's cell; nothing is marked as done."""
    trunk, train = some_task(TRUNK, *BRANCH), some_task(TRAIN, *BRANCH)
    for task, id, state in ((trunk, FIRST, None), (trunk, SECOND, FIRST), (train, CELL, FIRST)):
        (tmp_path / id / "checkpoints").mkdir(parents=True)
        inputs = {} if state is None else {"state": (state, "key")}
        write_task_file(tmp_path, task_file(task, id, **inputs))
    return {"first": tmp_path / FIRST, "second": tmp_path / SECOND, "cell": tmp_path / CELL}


@pytest.mark.parametrize("order", [("second", "cell"), ("cell", "second")])
def test_a_state_goes_once_branch_and_next_segment_are_done(
    tmp_path: Path, chain: dict[str, Path], order: tuple[str, str]
) -> None:
    (chain["first"] / "done.json").write_text("{}")
    (chain[order[0]] / "done.json").write_text("{}")
    release(tmp_path, chain["first"])
    assert (chain["first"] / "checkpoints").exists()
    (chain[order[1]] / "done.json").write_text("{}")
    release(tmp_path, chain["first"])
    assert not (chain["first"] / "checkpoints").exists()
    assert (chain["first"] / "spent.json").exists()
    assert not (chain["first"] / "done.json").exists()
    release(tmp_path, chain["second"])
    assert (chain["second"] / "checkpoints").exists(), "a larger budget goes on from it"


def test_a_state_waits_for_a_segment_that_is_planned_again(tmp_path: Path) -> None:
    graph = plan_of(QUICKSTART, *SMALL).graph
    first, second = (task for task in graph if task.kind is TRUNK)
    cells = [task for task in graph if task.kind is TRAIN]
    # A trunk of an earlier round, whose cells are lost: all of it is planned again.
    for task in (first, second):
        (tmp_path / task.id).mkdir(parents=True)
        (tmp_path / task.id / "spent.json").write_text("{}")
    write_task_files(tmp_path, [task.file() for task in (first, second, *cells)])
    (tmp_path / first.id / "checkpoints").mkdir()
    for task in (first, cells[0]):
        (tmp_path / task.id / "done.json").write_text("{}")
    release(tmp_path, tmp_path / first.id)
    assert (tmp_path / first.id / "done.json").exists()
    (tmp_path / second.id / "done.json").write_text("{}")
    release(tmp_path, tmp_path / first.id)
    assert (tmp_path / first.id / "spent.json").exists()


def test_segments_behind_a_cell(tmp_path: Path, chain: dict[str, Path]) -> None:
    train = some_task(TRAIN, *BRANCH)
    cell = task_file(train, "cells/other", state=(SECOND, "key"))
    assert list(segments_behind(tmp_path, cell)) == [SECOND, FIRST]
    assert not list(segments_behind(tmp_path, task_file(train, "cells/other")))
    lost = task_file(train, "cells/other", state=("trunks/gone-00000000", "key"))
    assert not list(segments_behind(tmp_path, lost))


def test_what_is_released_is_neither_wanted_nor_done(tmp_path: Path) -> None:
    graph = plan_of(QUICKSTART, *SMALL).graph
    segment = next(task for task in graph if task.kind is TRUNK)
    (tmp_path / segment.id).mkdir(parents=True)
    (tmp_path / segment.id / "spent.json").write_text("{}")
    assert observe(tmp_path, graph, lambda jobs: {})[segment.id].state is State.RELEASED
    done = {task.id for task in graph if task.kind in (TRAIN, EVALUATE)}
    assert segment not in graph.needed(done)
    last = [task for task in graph if task.kind is EVALUATE][-1]
    lost = done - {last.id, last.inputs["model"][0].id}
    assert segment in graph.needed(lost), "a cell that is lost is made again from the base model on"
