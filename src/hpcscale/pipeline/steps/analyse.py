"""The cells' losses as one table, and the analysis package's fits and figure of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcscale.atomic import atomic_writer, read_done, read_json, write_json
from hpcscale.errors import TaskError
from hpcscale.pipeline.context import Context, StepResult
from hpcscale.pipeline.steps.evaluate import RECORD as EVALUATION
from hpcscale.pipeline.steps.training import RECORD as TRAINING

RESULTS = "results.csv"
DOMAINS = "results-domains.csv"
SUMMARY = "summary.json"


def run(context: Context) -> StepResult:
    import pandas as pd

    import scalinglaws

    rows, domains, missing = collect(context.run_dir, context.params)
    if not rows:
        raise TaskError(
            f"no cell of {context.run_dir} is done; `hpcscale status {context.run_dir}` shows why"
        )
    out = context.directory
    frames = {RESULTS: pd.DataFrame(rows), DOMAINS: pd.DataFrame(domains)}
    for name, frame in frames.items():
        with atomic_writer(out / name, "w") as handle:
            frame.to_csv(handle, index=False)
    summary = scalinglaws.analyse(frames[RESULTS], out, base_loss=rows[0]["base_loss"])
    write_json(out / SUMMARY, {"name": context.params["name"], "missing": missing, **summary})
    outputs = sorted(f.name for f in out.iterdir() if f.suffix in (".csv", ".png", ".pdf"))
    return StepResult([*outputs, SUMMARY], {"cells": len(rows), "missing": missing})


def collect(
    run_dir: Path, params: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows of ``results.csv``, rows of its per-domain companion, and the cells not done."""
    base = _record(run_dir, params["base"], EVALUATION)
    base_loss = base["loss"] if base else None
    rows, domains, missing = [], [], []
    for cell in params["cells"]:
        evaluation = _record(run_dir, cell["evaluation"], EVALUATION)
        training = _record(run_dir, cell["train"], TRAINING)
        label = {"method": cell["method"], "tokens": cell["budget"], "seed": cell["seed"]}
        if evaluation is None or training is None:
            missing.append(cell["evaluation"][0].partition("/")[2].rpartition("-")[0])
            continue
        rows.append(label | _row(evaluation, training) | {"base_loss": base_loss}
                    | {"cell": cell["evaluation"][0]})  # fmt: skip
        for name, part in evaluation["domains"].items():
            before = base["domains"].get(name, {}) if base else {}
            domains.append(label | {"domain": name, "loss": part["loss"], "eval_tokens":
                           part["tokens"], "base_loss": before.get("loss")})  # fmt: skip
    return rows, domains, missing


def _row(evaluation: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
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
        "train_flops": training["flops_per_token"] * training["tokens"],
        "train_seconds": training["seconds"],
        "tokens_per_second": training["tokens_per_second"],
        "device_hours": training["seconds"] * training["world_size"] / 3600,
        "device": training["device"],
    }


def _record(run_dir: Path, address: list[str], name: str) -> dict[str, Any] | None:
    task_id, key = address
    if read_done(run_dir / task_id, key) is None:
        return None
    return dict(read_json(run_dir / task_id / name))
