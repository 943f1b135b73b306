"""What a run reports: steps once, utilisation of known GPUs, sinks that never stop it."""

from __future__ import annotations

import json
import logging
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from hpcscale.errors import Preempted
from hpcscale.model.peaks import peak_flops
from hpcscale.train.distributed import Ranks
from hpcscale.train.metrics import Meter, StepLog
from hpcscale.train.sinks import Attempt, Sinks
from training import make_store, train_here

SETTINGS: dict[str, Any] = {"micro_batch": 4, "tokens": 1500}


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "fp16", 989.4e12),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA L40S", "bf16", 362.05e12),
        ("Tesla V100-SXM2-32GB", "fp16", 125e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("x86_64", "fp32", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA X1000", "bf16", None),
    ],
)
def test_an_unknown_gpu_has_no_peak(name: str, precision: str, peak: float | None) -> None:
    assert peak_flops(name, precision) == peak


def test_utilisation_is_of_all_devices() -> None:
    meter = Meter(Ranks(world_size=4), flops=1e9, peak=100e12)
    # 200,000 tokens in 2 s at 1 GFLOP each are 100 TFLOP/s, of 400.
    assert meter.line(200_000, 2.0, 0.0)["mfu"] == pytest.approx(0.25)
    assert Meter(Ranks(), 1e9, None).line(1, 1.0, 0.0)["mfu"] is None


def test_every_line_says_what_the_step_cost(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    lines = train_here(tmp_path / "run", **SETTINGS)
    for line in lines:
        assert 0 <= line["data_wait_seconds"] < 1
        assert line["mfu"] is None, "the peak of a CPU is not known"
        assert line["device_hours"] == pytest.approx(line["seconds"] / 3600)
    readers = [t for t in threading.enumerate() if t.name.startswith("feed")]
    assert not readers, "the reader ends with the run"


def test_device_hours_count_the_ranks_of_each_attempt(tmp_path: Path) -> None:
    from hpcscale.train.metrics import Recorder

    log = tmp_path / "metrics.jsonl"
    Recorder(StepLog(log, 0), 4, []).write({"step": 1, "seconds": 3600.0})
    Recorder(StepLog(log, 1), 2, []).write({"step": 2, "seconds": 7200.0})
    assert [json.loads(x)["device_hours"] for x in log.read_text().splitlines()] == [4.0, 6.0]


def test_a_line_that_a_kill_cut_short_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = StepLog(path, 2)
    assert (log.seen, log.lines) == (3, [{"step": 1}, {"step": 2}])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


class FakeWandb(types.ModuleType):
    """Says what it was told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.starts: list[dict[str, Any]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **values: Any) -> FakeWandb:
        self.starts.append(values)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_a_resumed_run_writes_no_point_twice(tmp_path: Path, wandb: FakeWandb) -> None:
    for step, seen in ((0, 0), (2, 4)):  # killed behind step 4, and resumed from a save at 2
        with Sinks(["wandb"], Attempt(tmp_path, step, seen, {})) as sinks:
            for number in range(step + 1, 5 + step):
                sinks.write({"step": number, "loss": 1.0, "mfu": None, "skipped": None})
    assert [step for step, _ in wandb.points] == [1, 2, 3, 4, 5, 6]
    assert wandb.points[0] == (1, {"loss": 1.0})
    first, second = wandb.starts
    assert first["id"] == second["id"], "one run of both attempts"
    assert first["mode"] == "offline"
    assert wandb.finished == 2


def test_a_sink_that_fails_is_given_up_with_one_warning(
    tmp_path: Path, wandb: FakeWandb, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def fail(values: dict[str, float], step: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(wandb, "log", fail)
    monkeypatch.setitem(sys.modules, "trackio", None)  # not installed
    with (
        caplog.at_level(logging.WARNING),
        Sinks(["wandb", "trackio"], Attempt(tmp_path, 0, 0, {})) as sinks,
    ):
        for step in (1, 2, 3):
            sinks.write({"step": step, "loss": 1.0})
    assert len(caplog.records) == 2
    assert "trackio is given up" in caplog.text
    assert "wandb is given up (OSError: no space)" in caplog.text


def test_tensorboard_holds_each_step_once_after_a_restart(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_store(tmp_path / "store")
    out = tmp_path / "run"
    with pytest.raises(Preempted):
        train_here(out, stop_at=4, **SETTINGS)
    lines = train_here(out, **SETTINGS)
    events = reader.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    points = [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")]
    assert [(x["step"], x["loss"]) for x in lines] == points
