"""A whole sweep through local processes: once, again, killed, interrupted, changed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import Run, command, write_sweep


def losses(run: Path) -> dict[tuple[str, str, str], str]:
    """Losses as written, so that equality is bit for bit."""
    with open(run / "analysis" / "results.csv", encoding="utf-8") as handle:
        return {(r["method"], r["tokens"], r["seed"]): r["loss"] for r in csv.DictReader(handle)}


def attempts(run: Path) -> int:
    return sum(len(p.read_text().splitlines()) for p in run.rglob("attempts.jsonl"))


def wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come in time")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """The run directory of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = write_sweep(folder, texts)
    done = subprocess.run(
        command("sweep", file, "--executor", "local"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 cells done" in done.stdout
    return folder / "runs" / "tiny"


def test_every_cell_has_a_loss_and_the_budget_to_the_token(undisturbed: Path) -> None:
    assert len(losses(undisturbed)) == 6
    for record in (undisturbed / "cells").glob("*/record.json"):
        facts = json.loads(record.read_text())
        name = record.parent.name
        budget = {"2k": 2000, "4k": 4000, "8k": 8000}[name.split("-")[1]]
        assert facts["tokens"] == facts["selected_tokens"] == budget
        lines = (record.parent / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["tokens"] == budget
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_evaluation_is_over_exactly_the_eval_tokens(undisturbed: Path) -> None:
    for record in undisturbed.glob("evaluations/*/evaluation.json"):
        facts = json.loads(record.read_text())
        assert facts["tokens"] == 3000
        assert set(facts["domains"]) == {"sea", "code"}
        assert sum(d["tokens"] for d in facts["domains"].values()) == 3000


def test_the_analysis_is_written(undisturbed: Path) -> None:
    folder = undisturbed / "analysis"
    for name in (
        "results.csv",
        "fits.csv",
        "loss-vs-tokens.png",
        "loss-vs-tokens.pdf",
        "report.html",
        "tables/differences.tex",
        "figures/trajectories.svg",
    ):
        assert (folder / name).stat().st_size > 0
    with open(folder / "fits.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["method"] for row in rows} == {"random", "middle"}
    assert {"law", "parameter", "estimate", "converged"} <= set(rows[0])


def test_a_second_call_starts_nothing(undisturbed: Path, hpcscale: Run) -> None:
    before = attempts(undisturbed)
    file = undisturbed.parents[1] / "tiny.yaml"
    done = hpcscale("sweep", file, "--executor", "local")
    assert "nothing to start" in done.stdout
    assert "6 of 6 cells done" in done.stdout
    assert attempts(undisturbed) == before


def test_status_tells_what_is_there(undisturbed: Path, hpcscale: Run) -> None:
    done = hpcscale("status", undisturbed)
    assert "train      12 done" in done.stdout
    everything = hpcscale("status", undisturbed, "--all")
    assert "cells/random-8k-s0-" in everything.stdout


def test_eval_from_the_shell_gives_the_sweeps_numbers(undisturbed: Path, hpcscale: Run) -> None:
    (cell,) = undisturbed.glob("cells/random-8k-s0-*")
    (record,) = undisturbed.glob("evaluations/random-8k-s0-*/evaluation.json")
    out = undisturbed.parent / "eval.json"
    hpcscale("eval", cell, "--data", undisturbed, "--json", out, "--micro-batch", 5)
    (result,) = json.loads(out.read_text()).values()
    expected = json.loads(record.read_text())
    assert result["tokens"] == expected["tokens"]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_a_new_seed_keeps_the_cells_that_are_there(
    undisturbed: Path, hpcscale: Run, tmp_path: Path
) -> None:
    file = undisturbed.parents[1] / "tiny.yaml"
    plan = hpcscale("sweep", file, "--executor", "local", "--set", "seeds=[0, 1]", "--dry-run")
    assert "12 done, 12 missing" in plan.stdout


def test_a_cell_killed_in_mid_training_goes_on_bit_for_bit(
    undisturbed: Path, sweep_file: Path, hpcscale: Run
) -> None:
    run = sweep_file.parent / "runs" / "tiny"
    words = ("sweep", sweep_file, "--executor", "local", "--set", "train.checkpoint.every_steps=2")
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:

        def in_mid_training() -> tuple[Path, int] | None:
            for cell in run.glob("cells/random-8k-s0-*"):
                if list(cell.glob("checkpoints/step-*[0-9]")) and (cell / "running.json").exists():
                    return cell, json.loads((cell / "running.json").read_text())["pid"]
            return None

        cell, pid = wait_for(in_mid_training)
        os.kill(pid, signal.SIGKILL)
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 1, output
    assert "killed by signal 9 (SIGKILL)" in output
    assert not (cell / "done.json").exists()
    assert len(losses(run)) == 5, "the other cells and their analysis do not sink with it"

    hpcscale(*words)
    assert losses(run) == losses(undisturbed)
    metrics = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    record = [json.loads(line) for line in (cell / "attempts.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in record] == ["killed", "done"]
    assert 0 < record[1]["from_step"] <= record[0]["step"], "it went on rather than start over"


def test_ctrl_c_leaves_a_directory_that_the_next_call_continues(
    undisturbed: Path, sweep_file: Path, hpcscale: Run
) -> None:
    run = sweep_file.parent / "runs" / "tiny"
    words = ("sweep", sweep_file, "--executor", "local")
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        wait_for(lambda: list(run.glob("cells/*/running.json")))
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not list(run.glob("*/*/running.json"))
    hpcscale(*words)
    assert losses(run) == losses(undisturbed)


def test_two_sweeps_do_not_run_in_one_directory(sweep_file: Path, hpcscale: Run) -> None:
    run = sweep_file.parent / "runs" / "tiny"
    words = ("sweep", sweep_file, "--executor", "local")
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_for(lambda: list(run.glob("*/*/running.json")))
        second = hpcscale(*words, check=None)
        assert second.returncode == 2
        assert f"another sweep (process {process.pid}) runs in" in second.stderr
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


@pytest.mark.slow
def test_every_executor_gives_the_same_losses(
    undisturbed: Path, sweep_file: Path, hpcscale: Run
) -> None:
    hpcscale("sweep", sweep_file, "--executor", "debug")
    ours, theirs = losses(sweep_file.parent / "runs" / "tiny"), losses(undisturbed)
    assert ours.keys() == theirs.keys()
    for cell in ours:
        assert float(ours[cell]) == pytest.approx(float(theirs[cell]), rel=1e-5)


def test_several_ranks_a_cell_change_rounding_only(
    undisturbed: Path, sweep_file: Path, hpcscale: Run
) -> None:
    hpcscale(
        "sweep",
        sweep_file,
        "--executor",
        "local",
        "--set",
        "resources.train.ranks=2",
        "--set",
        "train.micro_batch=2",
        "--set",
        "budgets=[2k, 4k, 8k]",
        "--set",
        "selection=[random]",
    )
    ours, theirs = losses(sweep_file.parent / "runs" / "tiny"), losses(undisturbed)
    assert len(ours) == 3
    for cell in ours:
        assert float(ours[cell]) == pytest.approx(float(theirs[cell]), rel=1e-5)
