"""Where a cell or segment leaves the trunk: the state it continues from, and what that had cost."""

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
    """The end of a segment: its directory, its checkpoint, and the record that it left."""

    segment: Path
    tag: Path
    record: dict[str, Any]

    @property
    def tokens(self) -> int:
        return int(self.record["tokens"])


def branch_point(context: AnyContext, stream: PackedStream) -> BranchPoint | None:
    """What the task continues from, checked to be the start of its own run; None: the base model.

    Raises TaskError where the trunk was trained on other tokens or its state is broken.
    """
    if not context.file.input_ids(STATE):
        return None
    begun = bool(tags_in(context.directory / CHECKPOINTS))
    # The state's checksums are compared once, and not again where the task has its own by now.
    first = context.rank == 0 and not begun
    segment = context.verified_input(STATE) if first else context.input(STATE)
    tag = segment / CHECKPOINTS / tags_in(segment / CHECKPOINTS)[-1]
    point = BranchPoint(segment, tag, read_json(segment / RECORD))
    if read_manifest(tag)["data"] != stream.fingerprint(point.tokens):
        raise TaskError(
            f"{context.file.name}: the first {point.tokens} tokens of its selection are not "
            f"those that {segment} was trained on: the order of its selection method depends on "
            "the budget, though `nesting_problem` says that it does not. Write `train.schedule: "
            "wsd`, which trains each budget by itself, or mend the method and raise its `version`"
        )
    if first:
        # The curve of a branch is that of the run by itself, from its first step.
        shutil.copyfile(segment / METRICS, context.directory / METRICS)
    return point


def shares(point: BranchPoint | None, result: TrainResult) -> dict[str, Any]:
    """How a task's numbers divide into its own steps and the trunk's.

    tokens, seconds and device hours of a record are those of the run by itself, from the base
    model on; ``own_`` is what the task added, and what sums over tasks may add up.
    """
    before = point.record if point else {}
    return {
        "branch": None if point is None else {"segment": point.segment.name, "at": point.tokens},
        "own_tokens": result.tokens - before.get("tokens", 0),
        "own_seconds": result.seconds - before.get("seconds", 0.0),
        "own_device_hours": result.device_hours - before.get("device_hours", 0.0),
    }
