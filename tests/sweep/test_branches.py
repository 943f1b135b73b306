"""Sweeps with `schedule: wsd-branch` beside `wsd`: same cells, same numbers, fewer tokens."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import Run, command, write_sweep

pytestmark = pytest.mark.slow

COMMON = ("--set", "selection=[random]", "--set", "train.warmup=512")
BRANCH = (*COMMON, "--set", "train.schedule=wsd-branch")


def sweep(file: Path, *words: str) -> Path:
    done = subprocess.run(
        command("sweep", file, "--executor", "local", *words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return file.parent / "runs" / "tiny"


def rows(run: Path) -> dict[str, dict[str, str]]:
    with open(run / "analysis" / "results.csv", encoding="utf-8") as handle:
        return {row["tokens"]: row for row in csv.DictReader(handle)}


def same(ours: Path, theirs: Path) -> None:
    """Losses and weights bit for bit, and the curve of each cell from its first step."""
    for tokens, row in rows(theirs).items():
        mine = rows(ours)[tokens]
        assert mine["loss"] == row["loss"]
        assert mine["fingerprint"] == row["fingerprint"]
    cells = {path.name: path for path in (theirs / "cells").iterdir()}
    assert {path.name for path in (ours / "cells").iterdir()} == set(cells)
    for path in (ours / "cells").iterdir():
        weights = [cell / "model" / "model.safetensors" for cell in (path, cells[path.name])]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        curves = [
            [
                (s["step"], s["loss"], s["lr"])
                for s in map(json.loads, (c / "metrics.jsonl").read_text().splitlines())
            ]
            for c in (path, cells[path.name])
        ]
        assert curves[0] == curves[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    file = write_sweep(tmp_path_factory.mktemp("alone"), texts)
    return sweep(file, *COMMON, "--set", "train.schedule=wsd")


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    return sweep(write_sweep(tmp_path_factory.mktemp("branched"), texts), *BRANCH)


def test_branches_are_runs_by_themselves_bit_for_bit(alone: Path, branched: Path) -> None:
    same(branched, alone)


def test_each_loss_says_how_it_was_made(alone: Path, branched: Path) -> None:
    found = rows(branched)
    assert [found[t]["branch_at"] for t in ("2000", "4000", "8000")] == ["1536", "3072", "6400"]
    assert [found[t]["own_tokens"] for t in ("2000", "4000", "8000")] == ["464", "928", "1600"]
    assert float(found["8000"]["own_device_hours"]) < float(found["8000"]["device_hours"])
    assert rows(alone)["8000"]["branch_at"] == ""
    assert rows(alone)["8000"]["own_tokens"] == "8000"
    for run, tokens in ((branched, 6400 + 464 + 928 + 1600), (alone, 14000)):
        training = json.loads((run / "analysis" / "setting.json").read_text())["training"]
        assert training["tokens_trained"] == tokens
        assert (training["branches"] is None) == (run is alone)
        report = (run / "analysis" / "report.html").read_text()
        assert ("2,000 from 1,536, 4,000 from 3,072, 8,000 from 6,400" in report) == (
            run is branched
        )


def test_branches_of_the_quickstart_model_end_near_cosine_runs(
    repository: Path, tmp_path: Path
) -> None:
    """Within 0.1 nats, both lower with the budget; benchmarks/branches.py shows what differs."""
    found = {}
    for schedule in ("cosine", "wsd-branch"):
        words = (
            "budgets=[16k, 32k, 64k]",
            "seeds=[0]",
            "selection=[random]",
            f"root={tmp_path}",
            "model.pretrain.schedule=cosine",
            "train.warmup=4k",
            f"train.schedule={schedule}",
        )
        file = repository / "sweeps" / "quickstart.yaml"
        sweep(file, *(part for word in words for part in ("--set", word)))
        found[schedule] = rows(tmp_path / "quickstart")
    for tokens, branch in found["wsd-branch"].items():
        cosine = found["cosine"][tokens]
        assert branch["base_loss"] == cosine["base_loss"]
        assert branch["loss"] != cosine["loss"]
        assert abs(float(branch["loss"]) - float(cosine["loss"])) < 0.1
    for arm in found.values():
        assert (
            float(arm["64000"]["loss"]) < float(arm["32000"]["loss"]) < float(arm["16000"]["loss"])
        )


def test_states_are_deleted_but_the_last(branched: Path) -> None:
    kept = list(branched.glob("trunks/*/*/checkpoints"))
    assert [folder.parent.name.rpartition("-")[0] for folder in kept] == ["to-6.4k"]


def test_a_larger_budget_costs_the_rest_alone(branched: Path, hpcscale: Run) -> None:
    file = branched.parents[1] / "tiny.yaml"
    words = ("sweep", file, "--executor", "local", *BRANCH)
    assert "nothing to start" in hpcscale(*words).stdout
    more = hpcscale(*words, "--set", "budgets=[2k, 4k, 8k, 16k]", "--dry-run").stdout
    assert "9.6k tokens to train" in more


def test_lost_cells_are_made_again_from_a_trunk_that_is_spent(alone: Path, branched: Path) -> None:
    for folder in (*branched.glob("cells/*"), *branched.glob("evaluations/*")):
        shutil.rmtree(folder)
    sweep(branched.parents[1] / "tiny.yaml", *BRANCH)
    same(branched, alone)
    test_states_are_deleted_but_the_last(branched)


def test_trunk_and_branch_killed_in_mid_step_go_on_bit_for_bit(
    alone: Path, sweep_file: Path
) -> None:
    run = sweep_file.parent / "runs" / "tiny"
    words = (*BRANCH, "--set", "train.checkpoint.every_steps=2")
    for pattern in ("trunks/random-s0/to-6.4k-*", "cells/random-8k-s0-*"):
        with subprocess.Popen(
            command("sweep", sweep_file, "--executor", "local", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and process.poll() is None:
                begun = [
                    d
                    for d in run.glob(pattern)
                    if list(d.glob("checkpoints/step-*[0-9]")) and (d / "running.json").exists()
                ]
                if begun:
                    os.kill(
                        json.loads((begun[0] / "running.json").read_text())["pid"], signal.SIGKILL
                    )
                    break
                time.sleep(0.005)
            output = process.communicate(timeout=300)[0]
        assert "killed by signal 9 (SIGKILL)" in output
    sweep(sweep_file, *words)
    same(run, alone)


def test_several_ranks(tmp_path: Path, texts: Path) -> None:
    words = ("--set", "resources.train.ranks=2", "--set", "train.micro_batch=2")
    runs = []
    for schedule in ("wsd", "wsd-branch"):
        file = write_sweep(tmp_path / schedule, texts)
        runs.append(sweep(file, *COMMON, *words, "--set", f"train.schedule={schedule}"))
    same(runs[1], runs[0])
