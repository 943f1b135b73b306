"""`schedule: wsd-branch` on a real Slurm: cells that wait for their trunk, on four ranks."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from support import command, texts, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm_cluster")]
__all__ = ["texts"]  # fixtures

ASKED = tuple(
    (
        "--executor slurm --site devcluster --follow --set resources.train.nodes=2 --set "
        "resources.train.ranks=2 --set train.engine=deepspeed --set train.zero=1 --set "
        "train.micro_batch=2 --set selection=[random] --set train.warmup=512"
    ).split()
)


def sweep(folder: Path, texts: Path, schedule: str) -> Path:
    file = write_sweep(folder, texts)
    words = command("sweep", file, *ASKED, "--set", f"train.schedule={schedule}")
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    logs = "".join(p.read_text()[-2000:] for p in folder.rglob("*_log.out"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return folder / "runs" / "tiny"


def rows(run: Path) -> dict[str, dict[str, str]]:
    with open(run / "analysis" / "results.csv", encoding="utf-8") as handle:
        return {row["tokens"]: row for row in csv.DictReader(handle)}


def test_branches_are_runs_by_themselves_bit_for_bit(texts: Path, tmp_path: Path) -> None:
    alone = sweep(tmp_path / "alone", texts, "wsd")
    branched = sweep(tmp_path / "branched", texts, "wsd-branch")
    markers = [*branched.glob("trunks/*/*/done.json"), *branched.glob("trunks/*/*/spent.json")]
    assert [path.name for path in markers] == ["done.json", "spent.json", "spent.json"]
    theirs, ours = rows(alone), rows(branched)
    assert set(ours) == set(theirs) == {"2000", "4000", "8000"}
    for tokens, row in ours.items():
        assert row["loss"] == theirs[tokens]["loss"]
        assert row["branch_at"]
        assert not theirs[tokens]["branch_at"]
    for cell in alone.glob("cells/*"):
        weights = [
            path / "model" / "model.safetensors" for path in (cell, branched / "cells" / cell.name)
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
