"""Where a cell or segment continues from a trunk: the state, and what reaching it has cost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json
from hpcscale.data.packing import PackedStream
from hpcscale.errors import TaskError
from hpcscale.rundir.layout import CHECKPOINTS, METRICS, RECORD
from hpcscale.rundir.trunks import STATE
from hpcscale.train.loop import TrainResult
from hpcscale.train.tag_files import read_manifest, tags_in
from hpcscale.worker.context import AnyContext


@dataclass(frozen=True)
class BranchPoint:
    """The end of a segment: its directory, its checkpoint, and the record of its training."""

    segment: Path
    tag: Path
    record: dict[str, Any]

    @property
    def tokens(self) -> int:
        return int(self.record["tokens"])


def branch_point(context: AnyContext, stream: PackedStream) -> BranchPoint | None:
    """The segment that the task continues from; None where it starts from the base model.

    Raises TaskError where the trunk was trained on other tokens than the task's first ones, or its
    state is damaged.
    """
    if not context.file.input_ids(STATE):
        return None
    begun = bool(tags_in(context.directory / CHECKPOINTS))
    # The state's checksums are compared once, not again when the task has a checkpoint of its own.
    first = context.rank == 0 and not begun
    segment = context.verified_input(STATE) if first else context.input(STATE)
    tag = segment / CHECKPOINTS / tags_in(segment / CHECKPOINTS)[-1]
    point = BranchPoint(segment, tag, read_json(segment / RECORD))
    if read_manifest(tag)["data"] != stream.fingerprint(point.tokens):
        raise TaskError(
            f"{context.file.name}: the first {point.tokens} tokens of its selection are not "
            f"those that {segment} was trained on: the order of its selection method depends on "
            "the budget, though `nesting_problem` says that it does not. Write `train.schedule: "
            "wsd`, which trains each budget separately, or correct the method and raise its "
            "`version`"
        )
    if first:
        # The metrics of a branch are those of the whole run, from its first step.
        shutil.copyfile(segment / METRICS, context.directory / METRICS)
    return point


def shares(point: BranchPoint | None, result: TrainResult) -> dict[str, Any]:
    """The part of a task's numbers that belongs to its own steps, and not to the trunk's.

    tokens, seconds and device hours of a record count the whole run from the base model. ``own_``
    counts only the steps of this task, so that sums over tasks count each step once.
    """
    before = point.record if point else {}
    return {
        "branch": None if point is None else {"segment": point.segment.name, "at": point.tokens},
        "own_tokens": result.tokens - before.get("tokens", 0),
        "own_seconds": result.seconds - before.get("seconds", 0.0),
        "own_device_hours": result.device_hours - before.get("device_hours", 0.0),
    }
