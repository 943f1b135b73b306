"""A sweep on a real Slurm: arrays, several nodes and ranks a cell, the losses of this machine."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from support import Run, command, hpcscale, texts, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_cluster")]
__all__ = ["hpcscale", "texts"]  # fixtures

CLUSTER = tuple(
    (
        "--executor slurm --site devcluster --follow --set resources.train.nodes=2 --set "
        "resources.train.ranks=2 --set train.engine=deepspeed --set train.zero=1 --set "
        "train.micro_batch=2"
    ).split()
)


def losses(run: Path) -> dict[tuple[str, str, str], float]:
    with open(run / "analysis" / "results.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {(r["method"], r["tokens"], r["seed"]): float(r["loss"]) for r in rows}


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, texts: Path, slurm_cluster: Path) -> Path:
    """The run directory of a sweep whose cells have 2 nodes x 2 ranks under ZeRO-1."""
    folder = tmp_path_factory.mktemp("slurm")
    write_sweep(folder, texts)
    done = subprocess.run(
        command("sweep", folder / "tiny.yaml", *CLUSTER),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    logs = "".join(p.read_text()[-2000:] for p in folder.rglob("*_log.out"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert "6 of 6 cells done" in done.stdout
    return folder / "runs" / "tiny"


def test_it_ends_in_fits(sweep: Path) -> None:
    with open(sweep / "analysis" / "fits.csv", encoding="utf-8") as handle:
        assert {row["method"] for row in csv.DictReader(handle)} == {"random", "middle"}
    assert (sweep / "analysis" / "loss-vs-tokens.png").stat().st_size > 0


def test_every_cell_ran_on_two_nodes_and_four_ranks(sweep: Path) -> None:
    records = [json.loads(p.read_text()) for p in sweep.glob("cells/*/record.json")]
    assert [record["world_size"] for record in records] == [4] * 6


def test_slurm_counts_arrays_not_single_jobs(sweep: Path) -> None:
    lines = ask("sacct", "-X", "-n", "-P", "-o", "JobID,JobName,NNodes,State").splitlines()
    train = [line.split("|") for line in lines if "|tiny-train|" in line]
    assert len(train) == 6
    assert all(re.fullmatch(r"\d+_\d+", job) for job, *_ in train)
    assert len({job.partition("_")[0] for job, *_ in train}) <= 2, "one array a depth"
    assert all(nodes == "2" and state == "COMPLETED" for _, _, nodes, state in train)


def test_losses_are_those_of_this_machine(sweep: Path, texts: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path, texts)
    words = command("sweep", tmp_path / "tiny.yaml", "--executor", "local")
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    ours, theirs = losses(sweep), losses(tmp_path / "runs" / "tiny")
    assert ours.keys() == theirs.keys()
    for cell in ours:
        assert ours[cell] == pytest.approx(theirs[cell], rel=1e-5)


def test_a_second_call_submits_nothing(sweep: Path, hpcscale: Run) -> None:
    before = ask("sacct", "-X", "-n", "-P", "-o", "JobID")
    done = hpcscale("sweep", sweep.parents[1] / "tiny.yaml", *CLUSTER)
    assert "nothing to start" in done.stdout
    assert ask("sacct", "-X", "-n", "-P", "-o", "JobID") == before


def test_a_lost_cell_alone_is_run_again(sweep: Path, hpcscale: Run) -> None:
    (cell,) = sweep.glob("cells/random-2k-s0-*")
    expected = losses(sweep)
    for path in (*cell.iterdir(), *sweep.glob("evaluations/random-2k-s0-*/done.json")):
        if path.is_file():
            path.unlink()
    done = hpcscale("sweep", sweep.parents[1] / "tiny.yaml", *CLUSTER)
    assert "to start: 3 tasks" in done.stdout, "training, evaluation, analysis"
    assert losses(sweep) == expected, "bit for bit on the same world size"


def test_eval_sh_gives_the_sweeps_numbers(sweep: Path, repository: Path, tmp_path: Path) -> None:
    (cell,) = sweep.glob("cells/random-8k-s0-*")
    out = tmp_path / "eval.json"
    environment = {
        **os.environ,
        "HPCSCALE_DATA": str(sweep),
        "HPCSCALE_OUT": str(out),
        "HPCSCALE_SITE": "devcluster",
        "HPCSCALE": str(Path(command()[0]).parent / "hpcscale"),
    }
    subprocess.run(
        [
            "sbatch",
            "--wait",
            "--nodes=2",
            "--ntasks-per-node=2",
            f"--output={tmp_path}/eval.log",
            repository / "slurm" / "eval.sh",
            cell,
        ],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    log = tmp_path / "eval.log"
    assert out.exists(), log.read_text() if log.exists() else "no log"
    (result,) = json.loads(out.read_text()).values()
    (record,) = sweep.glob("evaluations/random-8k-s0-*/evaluation.json")
    expected = json.loads(record.read_text())
    assert result["tokens"] == expected["tokens"] == 3000
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_wrong_requests_are_refused_before_anything_is_submitted(
    texts: Path, tmp_path: Path, hpcscale: Run
) -> None:
    write_sweep(tmp_path, texts)
    before = ask("sacct", "-X", "-n", "-P", "-o", "JobID")
    refused = hpcscale(
        "sweep",
        tmp_path / "tiny.yaml",
        "--executor",
        "slurm",
        "--site",
        "devcluster",
        "--set",
        "resources.train.partition=atlantis",
        check=2,
    )
    assert "no partition `atlantis`; this cluster has: low, main" in refused.stderr
    assert not (tmp_path / "runs").exists()
    assert ask("sacct", "-X", "-n", "-P", "-o", "JobID") == before


def test_a_preempted_cell_comes_back_and_ends_the_same(
    sweep: Path, texts: Path, tmp_path: Path
) -> None:
    """USR2, as Slurm sends it ahead of a preemption or time limit: save, requeue, go on.

    To the last task of an array, whose own job id is that of the whole array.
    """
    run = tmp_path / "runs" / "tiny"
    write_sweep(tmp_path, texts)
    process = subprocess.Popen(
        command(
            "sweep",
            tmp_path / "tiny.yaml",
            *CLUSTER,
            "--set",
            "selection=[random]",
            "--set",
            "budgets=[2k, 8k]",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(run.glob("cells/*-8k-*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (job,) = {json.loads(p.read_text())["id"] for p in run.glob("cells/*-8k-*/job.json")}
    assert job.endswith("_1")
    ask("scancel", "--signal=USR2", job)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert outcomes(run, "2k") == ["done"]
    if "preempted" in outcomes(run, "8k"):
        assert outcomes(run, "8k") == ["preempted", "done"]
        assert re.search(r"Restarts=[1-9]", ask("scontrol", "show", "job", job))
    expected = {c: x for c, x in losses(sweep).items() if c[0] == "random" and c[1] != "4000"}
    assert losses(run) == expected, "bit for bit on the same world size"


def outcomes(run: Path, budget: str) -> list[str]:
    """How the attempts at a cell ended."""
    (path,) = run.glob(f"cells/*-{budget}-*/attempts.jsonl")
    return [json.loads(line)["outcome"] for line in path.read_text().splitlines()]
