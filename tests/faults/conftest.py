"""A cell to disturb, the same one undisturbed, and the table of what each fault cost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.conftest import devcluster, slurm_cluster
from faults.harness import SWEEP, Disturbed, Ending, steps_again, write_texts
from faults.table import write_table
from support import command

__all__ = ["devcluster", "slurm_cluster"]  # fixtures

SITE = """\
name: faults
partition: {partition}
network_on_compute: true
signal_seconds: 15
extra_sbatch: {{nodelist: node1}}
"""

Start = Callable[..., Disturbed]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory of one undisturbed cell on this machine."""
    folder = tmp_path_factory.mktemp("prepared")
    write_texts(folder / "texts.jsonl", 3000)
    file = folder / "faults.yaml"
    file.write_text(SWEEP.format(root=folder / "runs", texts=folder / "texts.jsonl"))
    done = subprocess.run(
        command("sweep", file, "--executor", "local"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "faults"


@pytest.fixture(scope="session")
def undisturbed(prepared: Path) -> Ending:
    return Ending.of(prepared)


@pytest.fixture
def start_local(tmp_path: Path, prepared: Path) -> Iterator[Start]:
    yield from _starting(tmp_path, prepared, "--executor", "local")


@pytest.fixture
def start_slurm(tmp_path: Path, prepared: Path, slurm_cluster: Path) -> Iterator[Start]:
    yield from _starting(tmp_path, prepared, *_slurm(tmp_path))


def _slurm(folder: Path) -> tuple[str, ...]:
    for partition in ("main", "low"):
        (folder / f"{partition}.yaml").write_text(SITE.format(partition=partition))
    return ("--executor", "slurm", "--follow", "--site", str(folder / "main.yaml"))


def _starting(folder: Path, prepared: Path, *options: str) -> Iterator[Start]:
    started = []

    def start(*more: str) -> Disturbed:
        started.append(Disturbed(folder, prepared, *options, *more).start())
        return started[-1]

    yield start
    for cell in started:
        cell.stop()


class Battery:
    """What each fault cost; HPCSCALE_FAULT_TABLE names the file whose table the rows go to."""

    def note(
        self, fault: str, where: str, cell: Disturbed, expected: Ending, back: float, allowed: int
    ) -> None:
        """Hold the cell to its undisturbed twin, and its loss of steps to ``allowed``."""
        attempts = cell.attempts()
        again, same = steps_again(attempts), Ending.of(cell.run) == expected
        row = {
            "fault": fault,
            "where": where,
            "attempts": len(attempts),
            "again": again,
            "back": back,
            "identical": same,
        }
        print(row)
        if target := os.environ.get("HPCSCALE_FAULT_TABLE"):
            write_table(Path(target), row)
        assert same, f"{fault}: another ending than undisturbed; attempts: {attempts}"
        assert 0 <= again <= allowed, attempts
        assert attempts[-1]["outcome"] == "done"


@pytest.fixture
def battery() -> Battery:
    return Battery()
