"""Training curves: the loss and learning rate of each cell, step by step."""

from __future__ import annotations

from pathlib import Path

from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results.labels import label_of
from hpcscale.rundir.layout import EVALUATION, METRICS
from hpcscale.rundir.reading import Row, read_lines, read_record

#: Points per cell: enough for a figure.
POINTS = 400
COLUMNS = [
    "method",
    "tokens",
    "seed",
    "step",
    "tokens_seen",
    "train_loss",
    "eval_loss",
    "learning_rate",
]


def collect_curves(run_dir: Path, spec: AnalyseSpec, points: int = POINTS) -> list[Row]:
    """At most ``points`` steps of each cell, evenly spaced, the last among them.

    ``eval_loss`` is given where a loss was measured: at step 0, the base model's, and at the last
    step of a cell that is evaluated. ``train_loss`` is the mean of one step's tokens.
    """
    base = read_record(run_dir, spec.base, EVALUATION)
    rows: list[Row] = []
    for cell in spec.cells:
        lines = list(read_lines(run_dir / cell.train[0] / METRICS))
        if not lines:
            continue
        curve = [_point(line) for line in _thinned(lines, points - 1)]
        evaluation = read_record(run_dir, cell.evaluation, EVALUATION)
        if evaluation is not None:
            curve[-1]["eval_loss"] = evaluation["loss"]
        start = {"step": 0, "tokens_seen": 0, "eval_loss": base["loss"] if base else None}
        rows += [label_of(cell) | point for point in (start, *curve)]
    return rows


def _point(line: Row) -> Row:
    return {
        "step": line["step"],
        "tokens_seen": line["tokens"],
        "train_loss": line["loss"],
        "eval_loss": line.get("eval_loss"),
        "learning_rate": line["lr"],
    }


def _thinned(lines: list[Row], points: int) -> list[Row]:
    """The first and the last of ``lines``, and even steps between."""
    count = len(lines)
    if count <= points:
        return lines
    return [lines[round(i * (count - 1) / (points - 1))] for i in range(points)]
