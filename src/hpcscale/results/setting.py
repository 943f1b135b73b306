"""What a reader must know to repeat the training side of a scaling law, from config and records.

The questions are those of the checklist of Li et al. 2025, arXiv 2502.18969.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hpcscale.atomic import read_done, read_json, sha256_file
from hpcscale.plan.specs import DECAY, AnalyseSpec
from hpcscale.results.compute import read_training
from hpcscale.rundir.layout import ATTEMPTS, CALLS, CONFIG, EVALUATION, MANIFEST, RECORD, SWEEP
from hpcscale.rundir.reading import Row, read_lines, read_record
from hpcscale.rundir.task_file import TaskFile, find_task_file
from hpcscale.rundir.trunks import segments_behind

_COUNTED = {
    "tokens": "those that the optimizer was asked to predict; padding never counts",
    "parameters": "all trainable ones; embeddings included, a tied head once",
    "flops": "forward and backward, 6 N + 12 L d T per token, where N counts the weights of matrix "
    "products that a token passes, the head included, and d is the width of all heads (Chowdhery "
    "et al. 2022, appendix B); causal masks and windows are not subtracted",
    "loss": "nats a token: the sum of nll over the sum of tokens",
}
_RULE = "the last step of a run made only for its budget; every eval token counts exactly once"
_BRANCHED = (
    "where a budget's decay begins, its run leaves a trunk that larger budgets share; the "
    "numbers are those of a run made only for its budget"
)


def collect_setting(run_dir: Path, spec: AnalyseSpec) -> Row:
    """JSON-ready answers; null where an older run did not write one.

    Raises TaskError where no cell is done.
    """
    config = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    manifest = read_json(run_dir / MANIFEST)
    records = [r for c in spec.cells if (r := read_training(run_dir, c.train))]
    files = [f for c in spec.cells if (f := find_task_file(run_dir, c.train[0]))]
    return {
        "code": {"git": _states(run_dir)}
        | {name: manifest[name] for name in ("packages", "python", "platform")},
        "sweep": {
            "name": spec.name,
            "file": manifest["sweep_file"],
            "sha256": sha256_file(run_dir / SWEEP),
            "overrides": manifest["overrides"],
        },
        "model": _model(run_dir, spec, config, records),
        "counted_as": _COUNTED,
        "training": _training(run_dir, config, files, records),
        "data": _data(run_dir, config, files),
        "selection": config["selection"],
        "evaluation": _evaluation(run_dir, spec, config),
        "hardware": _hardware(run_dir, spec, manifest, records),
    }


def _states(run_dir: Path) -> list[Any]:
    """Commits of all calls of the sweep, each once: an earlier call may have made some cells."""
    found: list[Any] = []
    for call in read_lines(run_dir / CALLS):
        if call["git"] not in found:
            found.append(call["git"])
    return found


def _model(run_dir: Path, spec: AnalyseSpec, config: Row, records: list[Row]) -> Row:
    model = config["model"]
    scratch = model["source"] is None
    base = read_record(run_dir, spec.base, EVALUATION)
    return {
        "source": model["source"],
        "revision": model["revision"],
        "shape": model["scratch"],
        "pretraining": model["pretrain"] if scratch else None,
        "parameters": _one({r["parameters"] for r in records}),
        "flops_per_token": _one({r["flops_per_token"] for r in records}),
        "base_loss": base["loss"] if base else None,
        "tokenizer": config["tokenizer"],
    }


def _decay(train: Row) -> Row:
    """The settings of the decay, for a schedule with a constant phase."""
    if not train["schedule"].startswith("wsd"):
        return {}
    return {name: train.get(name) for name in DECAY}


def _branches(records: list[Row]) -> str | None:
    """How runs that share trunks were trained; None where each run was trained separately."""
    points = sorted({(r["tokens"], r["branch"]["at"]) for r in records if r.get("branch")})
    listed = ", ".join(f"{tokens:,} from {at:,}" for tokens, at in points)
    return f"{_BRANCHED}; tokens of runs, and where they leave it: {listed}" if points else None


def _tokens_trained(run_dir: Path, files: list[TaskFile], records: list[Row]) -> int:
    """The tokens of all cells and of their trunks; a shared step counts once."""
    segments = {segment for file in files for segment in segments_behind(run_dir, file)}
    kept = [run_dir / segment / RECORD for segment in segments]
    shared = [read_json(record) for record in kept if record.exists()]
    return sum(int(r["own_tokens" if "own_tokens" in r else "tokens"]) for r in records + shared)


def _training(run_dir: Path, config: Row, files: list[TaskFile], records: list[Row]) -> Row:
    train = config["train"]
    decided = [file.decides for file in files]
    return {
        "runs": len(records),
        "budgets": config["budgets"],
        "seeds": config["seeds"],
        "optimizer": {"name": "AdamW"}
        | {name: train[name] for name in ("beta1", "beta2", "eps", "weight_decay", "clip")},
        "learning_rate": _one({d["lr"] for d in decided}),
        "schedule": train["schedule"],
        "schedule_ends_at": "the budget of each run",
        **_decay(train),
        "branches": _branches(records),
        "tokens_trained": _tokens_trained(run_dir, files, records),
        "warmup": train["warmup"],
        "min_lr_ratio": train["min_lr_ratio"],
        "batch_tokens": train["global_batch"],
        "sequence_length": config["data"]["sequence_length"],
        "packing": config["data"]["packing"],
        "precision": _one({d["precision"] for d in decided}),
        "engine": train["engine"],
        "zero": train["zero"],
        "epochs_allowed": train["epochs"],
        "epochs_most": max(r["epochs"] for r in records) if records else None,
        "checkpoints_used": "the last of each run",
    }


def _data(run_dir: Path, config: Row, files: list[TaskFile]) -> Row:
    """The settings of each corpus, the filters, and the counts of the store that cells read."""
    data = config["data"]
    roles: Row = {role: data[role] for role in ("pool", "eval", "query", "base") if data.get(role)}
    if data.get("filters"):
        roles["filters"] = data["filters"]
    for store in sorted({store for file in files for store in file.input_ids("pool")}):
        done = read_done(run_dir / store)
        roles["pool"] = roles["pool"] | {"held": done["facts"]["counts"] if done else None}
    return roles


def _evaluation(run_dir: Path, spec: AnalyseSpec, config: Row) -> Row:
    base = read_record(run_dir, spec.base, EVALUATION) or {}
    return {
        "rule": _RULE,
        "tokens": base.get("tokens"),
        "documents": base.get("documents"),
        "domains": {name: part["tokens"] for name, part in base.get("domains", {}).items()},
        "sequence_length": config["data"]["sequence_length"],
        "packing": config["data"]["packing"],
    }


def _hardware(run_dir: Path, spec: AnalyseSpec, manifest: Row, records: list[Row]) -> Row:
    cells = [cell.train[0] for cell in spec.cells]
    files = [file for cell in cells if (file := find_task_file(run_dir, cell))]
    segments = {segment for file in files for segment in segments_behind(run_dir, file)}
    attempts = [
        line
        for task in (*cells, *sorted(segments))
        for line in read_lines(run_dir / task / ATTEMPTS)
    ]
    return {
        "executor": manifest["executor"],
        "site": manifest["site"],
        "device": _one({r["device"] for r in records}),
        "device_name": _one({r.get("device_name") for r in records}),
        "ranks": _one({r["world_size"] for r in records}),
        "hosts": len({line["host"] for line in attempts}),
        "device_hours": sum(line["seconds"] * line["world_size"] for line in attempts) / 3600,
        "preempted_or_failed": sum(line["outcome"] != "done" for line in attempts),
    }


def _one(values: set[Any]) -> Any:
    """The value that all runs share; a list of them where they differ."""
    known = sorted(value for value in values if value is not None)
    return known if len(known) > 1 else next(iter(known), None)
