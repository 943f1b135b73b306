"""Influence on a real Slurm: dump as an array of several ranks a task, score as an array."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from support import INFLUENCE, Run, command, hpcscale, texts, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_cluster")]
__all__ = ["hpcscale", "texts"]  # fixtures

CLUSTER = (
    "--executor",
    "slurm",
    "--site",
    "devcluster",
    "--follow",
    "--set",
    "resources.dump={shards: 2, nodes: 2, ranks: 2, array_parallelism: 3}",
    "--set",
    "resources.proxy.ranks=2",
    "--set",
    "train.engine=deepspeed",
    "--set",
    "train.zero=2",
)


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def ends(run: Path) -> dict[str, int]:
    """How often each task was run to an end."""
    return {
        str(path.parent.relative_to(run)): len(path.read_text().splitlines())
        for path in run.rglob("attempts.jsonl")
    }


def scores(run: Path) -> np.ndarray:  # type: ignore[type-arg]
    (path,) = run.glob("scores/*/merged-*/scores.parquet")
    values: np.ndarray = pq.read_table(path)["score"].to_numpy()  # type: ignore[type-arg]
    return values


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    folder = tmp_path_factory.mktemp("slurm-influence")
    return write_sweep(
        folder,
        texts,
        INFLUENCE,
        influence={"projection": {"dimension": 512}, "dtype": "fp32"},
        selection=[{"name": "best", "method": "tracin", "preconditioner": "adam"}],
        train={"micro_batch": 2},
    )


@pytest.fixture(scope="module")
def run(file: Path, slurm_cluster: Path) -> Path:
    """A sweep whose proxy run is under ZeRO-2, and whose dumps have 2 nodes x 2 ranks a task."""
    done = subprocess.run(
        command("sweep", file, *CLUSTER), capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted dump: 6 array tasks as job array" in done.stdout
    assert "submitted influence: 4 array tasks as job array" in done.stdout
    return file.parent / "runs" / "influence"


def test_shards_of_four_ranks_give_the_scores_of_this_machine(
    run: Path, file: Path, tmp_path: Path, hpcscale: Run
) -> None:
    shards = sorted(run.glob("influence/pool-checkpoint0-adam/shard-*"))
    assert len(shards) == 2
    for shard in shards:
        assert len(list(shard.glob("gradients-*.npy"))) == 4
        assert json.loads((shard / "done.json").read_text())["facts"]["world_size"] == 4
    job = json.loads((shards[0] / "job.json").read_text())["id"].partition("_")[0]
    listed = ask("sacct", "-n", "-X", "-P", "-j", job, "-o", "JobID,State,NNodes")
    assert len([line for line in listed.splitlines() if "COMPLETED|2" in line]) == 6
    hpcscale("sweep", file, "--executor", "local", "--set", f"root={tmp_path}")
    here = scores(tmp_path / "influence")
    assert np.linalg.norm(scores(run) - here) < 1e-3 * np.linalg.norm(here)


def test_a_lost_and_a_truncated_shard_are_made_again_and_nothing_else(
    run: Path, file: Path, hpcscale: Run
) -> None:
    (lost, *_), (*_, cut) = (
        sorted(run.glob(f"influence/pool-checkpoint{c}-adam/shard-*")) for c in (0, 1)
    )
    whole = np.load(cut / "gradients-00002.npy")
    shutil.rmtree(lost)
    with open(cut / "gradients-00002.npy", "r+b") as handle:
        handle.truncate(1000)
    before = ends(run)
    hpcscale("sweep", file, *CLUSTER)
    after = ends(run)
    again = {name for name, count in after.items() if count != before.get(name)}
    assert again == {str(path.relative_to(run)) for path in (lost, cut)}
    np.testing.assert_array_equal(np.load(cut / "gradients-00002.npy"), whole)
