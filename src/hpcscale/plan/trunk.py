"""One trunk for all budgets of a method and seed: `schedule: wsd-branch`.

    to-51.2k ──────> to-102.4k ──────> to-204.8k      trunks/random-s0: constant rate, state kept
        └─ 64k           └─ 128k           └─ 256k    cells: that state, then the decay

A segment is the run of its own budget, cut where the decay begins; the cell does the rest. Budgets
of one seed begin with the same documents, so every segment goes on from the one before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import DONE, read_json
from hpcscale.config.sweep import Cell, SweepConfig
from hpcscale.config.yaml_lines import Location
from hpcscale.errors import TaskError
from hpcscale.plan.graph import Task, TrainingTask
from hpcscale.rundir.state import SPENT
from hpcscale.selection.method import SelectionMethod
from hpcscale.selection.registry import load_method
from hpcscale.units import format_count, format_rate
from hpcscale.worker.context import SPEC

if TYPE_CHECKING:
    from hpcscale.plan.stages import Pipeline

VERSION = 2
#: What of the train section decides how a run ends, and nothing before.
DECAY = ("decay", "decay_shape")
_BEHIND = ("schedule", "min_lr_ratio", *DECAY)
FOLDER = "trunks"
#: A segment's training state: its last checkpoint.
STATE = "checkpoints"


@dataclass
class Trunks:
    """Builds the segments of one sweep. A key covers neither the segments before nor the other
    budgets: what a segment holds is the same wherever the earlier ones were cut."""

    pipeline: Pipeline
    _made: dict[tuple[str, int], dict[int, Task]] = field(default_factory=dict)

    def branch(
        self, cell: Cell, method: SelectionMethod
    ) -> tuple[dict[str, tuple[Task, ...]], dict[str, Any]]:
        """Inputs and params that a cell's training has beside those of a run by itself."""
        train = self.pipeline.config.train
        if train.schedule != "wsd-branch" or not (point := train.decay_start(cell.budget)):
            return {}, {}
        trunk = (cell.method, cell.seed)
        if trunk not in self._made:
            self._made[trunk] = dict(self._segments(*trunk, method))
        return {"state": (self._made[trunk][point],)}, {"starts_at": point}

    def _segments(
        self, name: str, seed: int, method: SelectionMethod
    ) -> Iterator[tuple[int, Task]]:
        """Each branch point with the segment that ends there, in order."""
        pipeline, before, reached = self.pipeline, None, 0
        config = pipeline.config
        values = pipeline.training(config.train)
        for budget in sorted(config.budgets):
            point = config.train.decay_start(budget)
            if point == reached:
                continue
            inputs: dict[str, tuple[Task, ...]] = {
                "model": (pipeline.base,),
                "selection": (pipeline.selection(Cell(name, budget, seed), method),),
                "pool": (pipeline.stores["pool"],),
            }
            segment = TrainingTask(
                f"{FOLDER}/{name}-s{seed}/to-{format_count(point)}",
                "trunk",
                "train",
                {
                    **pipeline.sequences(),
                    **{key: value for key, value in values.items() if key not in _BEHIND},
                    "tokens": point,
                    "seed": seed,
                    "version": VERSION,
                },
                inputs | ({"state": (before,)} if before else {}),
                {"train": config.train.plain(), "starts_at": reached},
            )
            yield point, segment
            before, reached = segment, point


def problems(config: SweepConfig) -> Iterator[tuple[Location, str]]:
    """Why budgets cannot share a trunk, with the place in the sweep file; none where they can."""
    if config.train.schedule != "wsd-branch":
        return
    way_out = "or write `train.schedule: wsd`, which trains each budget by itself"
    smallest = min(config.budgets)
    warmup, decay = config.train.warmup_tokens(smallest), config.train.decay_start(smallest)
    if warmup > decay:
        yield (
            ("train", "warmup"),
            (
                f"a warm-up of {format_count(warmup)} tokens is not over at {format_count(decay)}, "
                f"where budget {format_count(smallest)} begins to decay; shorten the warm-up, "
                f"raise the budget, {way_out}"
            ),
        )
    for index, method in enumerate(config.selection):
        if reason := load_method(method).why_not_nested():
            yield (
                ("selection", index),
                (
                    f"`schedule: wsd-branch` needs budgets that go on where smaller ones stop, and "
                    f"selection `{method.name}` has none: {reason}; {way_out}"
                ),
            )


def trunk_lines(config: SweepConfig) -> list[str]:
    """Branch points, and what is trained in all beside runs of their own; none without trunks."""
    if config.train.schedule != "wsd-branch":
        return []
    budgets = sorted(config.budgets)
    points = {budget: config.train.decay_start(budget) for budget in budgets}
    tokens = max(points.values()) + sum(budget - point for budget, point in points.items())
    branches = ", ".join(f"{format_count(b)} from {format_rate(p)}" for b, p in points.items())
    return [
        f"one trunk a method and seed: branches {branches}; {format_rate(tokens)} tokens "
        f"trained, {tokens / budgets[-1]:.2f}x the largest budget (runs of their own: "
        f"{sum(budgets) / budgets[-1]:.2f}x)"
    ]


def trained_tokens(task: Task) -> int:
    """Tokens of a cell's or segment's own steps."""
    decides = task.decides
    total = decides["budget"] if task.kind == "train" else decides["tokens"]
    return int(total) - int(task.params.get("starts_at", 0))


# --- in a run directory


def segments_behind(run_dir: Path, spec: dict[str, Any]) -> Iterator[str]:
    """Ids of the segments that a task goes on from, the last one first."""
    while entries := spec["inputs"].get("state"):
        segment = str(entries[0]["id"])
        if not (run_dir / segment / SPEC).exists():
            return
        yield segment
        spec = read_json(run_dir / segment / SPEC)


def release(run_dir: Path, segment: Path) -> None:
    """Delete the state of a segment where all that goes on from it is done, its branches and the
    next segment. The last of a trunk keeps its state, so that a larger budget costs the rest only.

    Called by whatever reads the state, once that is marked: of two that end together, the later
    finds both marks.
    """
    own = str(segment.relative_to(run_dir))
    readers = [path.parent for path in (run_dir / "cells").glob(f"*/{SPEC}") if _reads(path, own)]
    behind = [path.parent for path in segment.parent.glob(f"*/{SPEC}") if _reads(path, own)]
    ended = all((task / DONE).exists() or (task / SPENT).exists() for task in readers + behind)
    if behind and ended and (segment / DONE).exists():
        (segment / DONE).replace(segment / SPENT)
        shutil.rmtree(segment / STATE, ignore_errors=True)


def _reads(spec: Path, segment: str) -> bool:
    try:
        entries = read_json(spec)["inputs"].get("state", [])
    except TaskError:
        return False  # gone since it was listed
    return any(entry["id"] == segment for entry in entries)
