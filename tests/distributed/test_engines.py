"""Engines, ZeRO stages, ranks and micro-batches give one loss curve, up to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training import make_store, run_ranks

pytestmark = pytest.mark.distributed
#: 2,500 tokens in rows of 16 at 128 a step: 20 steps, the last one short, with an empty rank.
STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    make_store(folder / "store")
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, Any]:
    """Plain torch, one process, one pass a step."""
    return run_ranks(folder / "reference", 1, micro_batch=8)


def assert_same(run: dict[str, Any], reference: dict[str, Any], rel: float = 1e-5) -> None:
    assert len(run["lines"]) == len(reference["lines"]) == STEPS
    for mine, theirs in zip(run["lines"], reference["lines"], strict=True):
        for name in ("loss", "grad_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=rel), (name, mine["step"])
        assert mine["lr"] == theirs["lr"]
        assert mine["tokens"] == theirs["tokens"]
    assert run["eval_loss"] == pytest.approx(reference["eval_loss"], rel=rel)
    assert run["tokens"] == 2500


def test_the_reference_learns_and_clips(reference: dict[str, Any]) -> None:
    first, last = reference["lines"][0], reference["lines"][-1]
    assert last["loss"] < first["loss"] - 0.5
    assert any(line["grad_norm"] > 0.5 for line in reference["lines"])


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 1), (2, 4), (2, 1), (4, 2)])
def test_ranks_and_micro_batches_change_rounding_only(
    folder: Path, reference: dict[str, Any], world: int, micro_batch: int
) -> None:
    run = run_ranks(folder / f"torch-{world}-{micro_batch}", world, micro_batch=micro_batch)
    assert_same(run, reference)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_deepspeed_gives_the_losses_of_torch(
    folder: Path, reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch, zero: int, world: int
) -> None:
    built = folder / "extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(built))
    run = run_ranks(
        folder / f"deepspeed-{zero}-{world}", world, engine="deepspeed", zero=zero, micro_batch=2
    )
    assert_same(run, reference)
    assert not built.exists() or not list(built.rglob("*.so")), "nothing is compiled"


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_an_offloaded_optimizer_gives_the_same_losses_and_needs_no_compiler(
    folder: Path, reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch, zero: int
) -> None:
    """Several passes a step, of which DeepSpeed has lost gradients before."""
    built = folder / "extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(built))
    monkeypatch.setenv("PATH", str(folder / "no-programs"))
    run = run_ranks(
        folder / f"offload-{zero}",
        2,
        engine="deepspeed",
        zero=zero,
        micro_batch=2,
        offload="optimizer",
    )
    assert_same(run, reference)
    told = json.loads((folder / f"offload-{zero}" / "engine.json").read_text())
    assert told["config"]["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert not built.exists() or not list(built.rglob("*.so")), "nothing is compiled"


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_bf16_trains_close_to_fp32(folder: Path, reference: dict[str, Any], engine: str) -> None:
    run = run_ranks(
        folder / f"bf16-{engine}", 2, engine=engine, zero=1, precision="bf16", micro_batch=4
    )
    assert len(run["lines"]) == STEPS
    assert run["lines"][-1]["loss"] == pytest.approx(reference["lines"][-1]["loss"], rel=0.02)


def test_isolated_documents_too(folder: Path) -> None:
    one = run_ranks(folder / "isolate-1", 1, packing="isolate", micro_batch=8)
    two = run_ranks(
        folder / "isolate-2", 2, packing="isolate", micro_batch=2, engine="deepspeed", zero=2
    )
    assert_same(two, one)


@pytest.mark.parametrize(("engine", "zero"), [("torch", 0), ("deepspeed", 1), ("deepspeed", 3)])
def test_a_stopped_run_goes_on_bit_for_bit(folder: Path, engine: str, zero: int) -> None:
    settings: dict[str, Any] = {"engine": engine, "zero": zero, "micro_batch": 2}
    whole = run_ranks(folder / f"whole-{engine}-{zero}", 2, **settings)
    out = folder / f"stopped-{engine}-{zero}"
    for stop_at in (5, 4):
        stopped = run_ranks(out, 2, check=False, stop_at=stop_at, **settings)
        assert stopped["codes"] == [75, 75], stopped["output"]
    assert len(stopped["lines"]) == 9
    resumed = run_ranks(out, 2, **settings)
    assert [x["loss"] for x in resumed["lines"]] == [x["loss"] for x in whole["lines"]]
    assert [x["grad_norm"] for x in resumed["lines"]] == [x["grad_norm"] for x in whole["lines"]]
    assert resumed["digest"] == whole["digest"]
    assert resumed["eval_loss"] == whole["eval_loss"]
