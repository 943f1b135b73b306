"""Losses, training data and costs: one row per cell, and one per cell and domain."""

from __future__ import annotations

from pathlib import Path

from hpcscale.config.sweep import Cell
from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results.compute import read_training
from hpcscale.results.labels import label_of
from hpcscale.rundir.layout import EVALUATION
from hpcscale.rundir.reading import Row, read_record
from hpcscale.rundir.task_file import TaskFile, find_task_file


def collect_losses(run_dir: Path, spec: AnalyseSpec) -> tuple[list[Row], list[Row], list[str]]:
    """Rows of ``results.csv``, rows of its per-domain companion, and the cells not done."""
    base = read_record(run_dir, spec.base, EVALUATION)
    base_loss = base["loss"] if base else None
    rows, domains, missing = [], [], []
    for cell in spec.cells:
        evaluation = read_record(run_dir, cell.evaluation, EVALUATION)
        training = read_training(run_dir, cell.train)
        if evaluation is None or training is None:
            missing.append(Cell(cell.method, cell.budget, cell.seed).name)
            continue
        task_id, key = cell.evaluation
        rows.append(
            label_of(cell)
            | _row(evaluation, training)
            | _settings(find_task_file(run_dir, cell.train[0]))
            # A key covers the keys of all inputs, the training's among them.
            | {"base_loss": base_loss, "cell": task_id, "fingerprint": key}
        )
        for name, part in evaluation["domains"].items():
            before = base["domains"].get(name, {}) if base else {}
            domains.append(
                label_of(cell)
                | {
                    "domain": name,
                    "loss": part["loss"],
                    "eval_tokens": part["tokens"],
                    "base_loss": before.get("loss"),
                }
            )
    return rows, domains, missing


def _row(evaluation: Row, training: Row) -> Row:
    return {
        "loss": evaluation["loss"],
        "perplexity": evaluation["perplexity"],
        "bits_per_byte": evaluation["bits_per_byte"],
        "eval_tokens": evaluation["tokens"],
        "unique_tokens": training["unique_tokens"],
        "epochs": training["epochs"],
        "documents": training["documents"],
        "train_loss": training["train_loss"],
        "model_size": training["parameters"],
        "train_flops": _flops(training),
        "train_seconds": training["seconds"],
        "tokens_per_second": training["tokens_per_second"],
        # Of all attempts, whose ranks may differ; an older record has only the last attempt's.
        "device_hours": training.get(
            "device_hours", training["seconds"] * training["world_size"] / 3600
        ),
        "device": training["device"],
        **_shares(training),
    }


def _flops(training: Row) -> float | None:
    """FLOPs of a training; None where they do not follow from the model's weights."""
    rate = training["flops_per_token"]
    return None if rate is None else rate * training["tokens"]


def _shares(training: Row) -> Row:
    """What a branch does not share with other cells. Cost and time in ``_row`` count its whole run,
    whose first ``branch_at`` tokens are shared; sums over cells use the ``own_`` columns."""
    branch = training.get("branch")
    return {
        "branch_at": branch["at"] if branch else None,
        "own_tokens": training.get("own_tokens", training["tokens"]),
        "own_device_hours": training.get("own_device_hours"),
    }


def _settings(file: TaskFile | None) -> Row:
    decides = {} if file is None else file.decides
    return {
        "batch_tokens": decides.get("global_batch"),
        "learning_rate": decides.get("lr"),
        "schedule": decides.get("schedule"),
        "warmup": decides.get("warmup"),
    }
