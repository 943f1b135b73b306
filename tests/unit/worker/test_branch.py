"""What a branch checks before it leaves the trunk, and how its numbers divide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpcscale.atomic import read_done, write_done, write_json
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import TaskError
from hpcscale.plan.kinds import TRAIN
from hpcscale.plan.specs import TrainSpec
from hpcscale.worker.branch import branch_point
from hpcscale.worker.context import Context
from planning import context_of, some_task
from training import LENGTH, make_store, train_here

SEGMENT = "trunks/random-s0/to-640-00000000"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a segment of five steps that is done."""
    make_store(tmp_path / SEGMENT / ".." / "store", documents=300)
    train_here(tmp_path / SEGMENT, tokens=900, steps=5, schedule="wsd", warmup="256", key="segment")
    write_json(tmp_path / SEGMENT / "record.json", {"tokens": 640, "seconds": 2.0})
    state = (tmp_path / SEGMENT / "checkpoints").glob("step-*/*")
    write_done(
        tmp_path / SEGMENT,
        "segment",
        ["record.json", *(str(file.relative_to(tmp_path / SEGMENT)) for file in state)],
    )
    return tmp_path


def context(run_dir: Path) -> Context[TrainSpec]:
    return context_of(run_dir, some_task(TRAIN), "cells/c", state=(SEGMENT, "segment"))


def stream(run_dir: Path, documents: list[int], tokens: int) -> PackedStream:
    store = TokenStore.open((run_dir / SEGMENT).parent / "store")
    return PackedStream(store, np.array(documents), tokens, LENGTH)


def test_a_branch_starts_with_the_curve_of_its_trunk(run_dir: Path) -> None:
    point = branch_point(context(run_dir), stream(run_dir, list(range(300)), 1700))
    assert point is not None
    assert (point.tokens, point.tag.name) == (640, "step-00000005")
    lines = (run_dir / "cells" / "c" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_another_order_behind_the_branch_point_is_no_matter_and_before_it_is(run_dir: Path) -> None:
    store = TokenStore.open((run_dir / SEGMENT).parent / "store")
    within = int(np.searchsorted(np.cumsum(store.lengths), 640)) + 1
    order = list(range(300))
    behind = order[:within] + order[within:][::-1]
    assert branch_point(context(run_dir), stream(run_dir, behind, 1700)) is not None
    before = [order[1], order[0], *order[2:]]
    with pytest.raises(TaskError, match="the first 640 tokens of its selection are not those"):
        branch_point(context(run_dir), stream(run_dir, before, 1700))


def test_a_broken_state_is_made_again(run_dir: Path) -> None:
    file = next((run_dir / SEGMENT / "checkpoints").glob("step-*/rank-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(TaskError, match="no longer counted as done: run the same"):
        branch_point(context(run_dir), stream(run_dir, list(range(300)), 1700))
    assert read_done(run_dir / SEGMENT) is None
