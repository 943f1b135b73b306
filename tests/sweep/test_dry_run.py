"""The paper's grid, planned anywhere: no Slurm, no network, nothing written."""

from __future__ import annotations

import re
import time
from pathlib import Path

from support import Run


def test_the_grid_is_planned_without_slurm(repository: Path, hpcscale: Run, tmp_path: Path) -> None:
    done = hpcscale(
        "sweep",
        repository / "sweeps" / "grid.yaml",
        "--dry-run",
        "--site",
        "example-apptainer",
        PATH="/usr/bin:/bin",
    )
    assert "108 cells = 6 methods" in done.stdout
    assert "7.94B tokens to train" in done.stdout
    assert re.search(r"GPU-hours on A100", done.stdout)
    assert "hpcscale data prepare" in done.stdout
    assert "#SBATCH --array=0-71%8" in done.stdout or "#SBATCH --array=0-17%8" in done.stdout
    assert "#SBATCH --gpus-per-node=4" in done.stdout
    assert "nothing was submitted" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_thousand_cells_take_seconds(sweep_file: Path, hpcscale: Run) -> None:
    started = time.perf_counter()
    done = hpcscale(
        "sweep",
        sweep_file,
        "--dry-run",
        "--set",
        "budgets={geomspace: [1k, 11k, 50]}",
        "--set",
        f"seeds={list(range(10))}",
    )
    assert "1000 cells" in done.stdout
    assert time.perf_counter() - started < 5


def test_prepare_makes_the_data_and_no_more(sweep_file: Path, hpcscale: Run) -> None:
    run = sweep_file.parent / "runs" / "tiny"
    done = hpcscale("data", "prepare", sweep_file)
    assert "now run `hpcscale sweep" in done.stdout
    assert {p.parent.name.rpartition("-")[0] for p in run.glob("*/*/done.json")} == {
        "tokenizer",
        "eval",
        "base",
        "pool",
    }
    assert "everything is prepared" in hpcscale("data", "prepare", sweep_file).stdout
    (pool,) = run.glob("data/pool-*")
    assert '"role": "pool"' in hpcscale("data", "inspect", pool, "--verify").stdout


def test_the_plan_names_what_is_not_read(
    sweep_file: Path, texts: Path, hpcscale: Run, tmp_path: Path
) -> None:
    """300 documents in three files, of which one is of a kind that is read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = texts.read_text().splitlines(keepends=True)
    for index, name in enumerate(("a.jsonl", "b.json", "c.jsonl.xz")):
        (folder / name).write_text("".join(lines[100 * index : 100 * (index + 1)]))
    text = sweep_file.read_text()
    sweep_file.write_text(
        text.replace(
            f"pool: {{corpus: files, path: {texts}", f"pool: {{corpus: files, path: {folder}"
        )
    )
    line = "1 file is read; 2 files are not, because their kind is not read: 1 .json, 1 .jsonl.xz"
    assert f"\ndata.pool: {line}\n" in hpcscale("sweep", sweep_file, "--dry-run").stdout
    sweep_file.write_text(text.replace(str(texts), str(folder)))
    shown = hpcscale("sweep", sweep_file, "--dry-run").stdout
    assert f"\ndata.eval, data.base, data.pool: {line}\n" in shown
    assert shown.count("is not read") == 1
    sweep_file.write_text(text)
    assert "is not read" not in hpcscale("sweep", sweep_file, "--dry-run").stdout
