"""Where a cell or a segment leaves the trunk: the state it goes on from, and what that had cost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import read_json
from hpcscale.errors import TaskError
from hpcscale.plan.trunk import STATE
from hpcscale.worker.context import Context

if TYPE_CHECKING:
    from hpcscale.data.packing import PackedStream
    from hpcscale.train.loop import TrainResult

_METRICS, _RECORD = "metrics.jsonl", "record.json"


@dataclass(frozen=True)
class BranchPoint:
    """The end of a segment: its directory, its checkpoint, and the record that it left."""

    segment: Path
    tag: Path
    record: dict[str, Any]

    @property
    def tokens(self) -> int:
        return int(self.record["tokens"])


def branch_point(context: Context, stream: PackedStream) -> BranchPoint | None:
    """What the task goes on from, checked to be the start of its own run; None: the base model.

    Raises TaskError where the trunk was trained on other tokens or its state is broken.
    """
    from hpcscale.train.tag_files import read_manifest, tags_in

    if not context.spec["inputs"].get("state"):
        return None
    begun = bool(tags_in(context.directory / STATE))
    # The state's checksums are compared once, and not again where the task has its own by now.
    first = context.rank == 0 and not begun
    segment = context.verified_input("state") if first else context.input("state")
    tag = segment / STATE / tags_in(segment / STATE)[-1]
    point = BranchPoint(segment, tag, read_json(segment / _RECORD))
    if read_manifest(tag)["data"] != stream.fingerprint(point.tokens):
        raise TaskError(
            f"{context.spec['name']}: the first {point.tokens} tokens of its selection are not "
            f"those that {segment} was trained on: the order of its selection method depends on "
            "the budget, though `why_not_nested` says that it does not. Write `train.schedule: "
            "wsd`, which trains each budget by itself, or mend the method and raise its `version`"
        )
    if first:
        # The curve of a branch is that of the run by itself, from its first step.
        shutil.copyfile(segment / _METRICS, context.directory / _METRICS)
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
