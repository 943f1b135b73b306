"""The names of files and folders in a run directory; docs/run-directory.md describes them."""

from __future__ import annotations

from pathlib import Path

from hpcscale.atomic import DONE as DONE

# --- of the sweep
SWEEP = "sweep.yaml"
CONFIG = "config.yaml"
#: The site profile of the last call, copied since it may be the user's own file.
SITE = "site.yaml"
MANIFEST = "manifest.json"
CALLS = "calls.jsonl"
LOCK = ".lock"
LOGS = "logs"
ANALYSIS = "analysis"

# --- of a task
TASK = "task.json"
FAILED = "failed.json"
RUNNING = "running.json"
JOB = "job.json"
#: The former ``done.json`` of a task whose outputs were deleted since no task needs them.
RELEASED = "spent.json"
PROGRESS = "progress.json"
ATTEMPTS = "attempts.jsonl"

# --- what tasks write
TOKENIZER = "tokenizer"
STORE = "store"
MODEL = "model"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
ENGINE = "engine.json"
RECORD = "record.json"
SNAPSHOTS = "snapshots"
CAPTURE = "capture"
SCORES = "scores.parquet"
SELECTION = "selection.parquet"
SELECTION_SUMMARY = "selection.json"
EVALUATION = "evaluation.json"
PROBES = "probes.json"
#: A fact in the marker of a fetched model: its version of hpcscale refuses faulty models.
PROBED = "probed"

# --- tables of the analysis
RESULTS = "results.csv"
DOMAINS = "results-domains.csv"
CURVES = "trajectories.csv"
OVERLAP = "overlap.csv"
COSTS = "costs.csv"
SETTING = "setting.json"
SUMMARY = "summary.json"

# --- names of tasks; a task's directory is its name and the first digits of its key
EVALUATIONS = "evaluations"
CELLS = "cells"
SELECTIONS = "selections"
TRUNKS = "trunks"
KEY_DIGITS = 8


def task_id(name: str, key: str) -> str:
    """The directory of a task, relative to the run directory."""
    return f"{name}-{key[:KEY_DIGITS]}"


def name_of(task_id: str) -> str:
    """The name in a task's id."""
    return task_id[: -KEY_DIGITS - 1]


def is_task_folder(folder: str) -> bool:
    """Whether a directory's name ends with a key."""
    return len(folder.rpartition("-")[2]) == KEY_DIGITS


def log_file(run_dir: Path, task_id: str) -> Path:
    """The log of an array task on this machine, by the id of its first task."""
    return run_dir / LOGS / f"{task_id.replace('/', '-')}.log"
