"""Worker processes on this machine: their GPUs and their environment."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from hpcscale.cluster import local


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2,3", ["2", "3"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,9,2", ["1"]),
        ("GPU-7a,MIG-3", ["GPU-7a", "MIG-3"]),
    ],
)
def test_only_the_gpus_that_the_outer_job_has_are_given_out(
    mask: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Path(f"/dev/nvidia{number}") for number in range(4)] + [Path("/dev/nvidia-uvm")]
    monkeypatch.setattr(local.Path, "glob", lambda *_: iter(files))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert local.gpu_names() == names
    assert local.gpu_count() == len(names)


def _tell(folder: str, _: list[str]) -> int:
    names = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "LOCAL_WORLD_SIZE",
        "TORCHELASTIC_USE_AGENT_STORE",
        "PMI_RANK",
    )
    text = " ".join(f"{name}={os.environ.get(name)}" for name in names)
    (Path(folder) / os.environ["RANK"]).write_text(text)
    return 0


def test_a_local_worker_is_a_rank_of_its_own_task_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftovers = {
        "RANK": "3",
        "WORLD_SIZE": "9",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "elsewhere",
        "LOCAL_WORLD_SIZE": "9",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "PMI_RANK": "3",
    }
    for name, value in leftovers.items():
        monkeypatch.setenv(name, value)
    environment = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    monkeypatch.setattr(local, "ENTRY", f"{__name__}:_tell")
    process = multiprocessing.get_context("fork").Process(
        target=local._rank_main,
        args=(environment, str(tmp_path), ["t"], str(tmp_path / "log"), os.getpid()),
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "0").read_text() == (
        "RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 LOCAL_WORLD_SIZE=None "
        "TORCHELASTIC_USE_AGENT_STORE=None PMI_RANK=None"
    )
