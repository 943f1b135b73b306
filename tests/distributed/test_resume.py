"""A run goes on from its checkpoints: bit for bit, or on other ranks, stages and engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training import make_store, run_ranks

pytestmark = pytest.mark.distributed
SLOW = pytest.mark.slow
#: 50 steps of 8 rows of 16 tokens.
STEPS, TOKENS = 50, 6400
LIMIT = {"fp32": 1e-5, "bf16": 2e-3}

Way = tuple[int, str, int]  # ranks, engine, ZeRO stage
TORCH: list[Way] = [(world, "torch", 0) for world in (1, 2, 4)]
ZERO: list[Way] = [(world, "deepspeed", zero) for world in (1, 2, 4) for zero in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_store(folder / "store", documents=300)
    return folder


def losses(run: dict[str, Any]) -> list[float]:
    return [line["loss"] for line in run["lines"]]


def furthest(run: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest distance of two loss curves, in nats."""
    assert len(losses(run)) == len(losses(other))
    return max(abs(a - b) for a, b in zip(losses(run), losses(other), strict=True))


def asked(way: Way, **more: Any) -> dict[str, Any]:
    return {"engine": way[1], "zero": way[2], **{"micro_batch": 2, **more}}


def resumed(out: Path, ways: list[Way], every: int, **more: Any) -> dict[str, Any]:
    """Stopped after ``every`` steps on each way but the last, which goes to the end."""
    for number, way in enumerate(ways[:-1], 1):
        stopped = run_ranks(out, way[0], check=False, stop_at=every, **asked(way, **more))
        assert set(stopped["codes"]) == {75}, stopped["output"]
        assert len(stopped["lines"]) == number * every
    return run_ranks(out, ways[-1][0], **asked(ways[-1], **more))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "deepspeed", 2), (1, "deepspeed", 3)),
        ((1, "deepspeed", 3), (2, "torch", 0)),
        ((2, "torch", 0), (2, "deepspeed", 1)),
        *(
            pytest.param(before, after, marks=SLOW)
            for zero in range(4)
            for before, after in (
                ((4, "deepspeed", zero), (2, "deepspeed", zero)),
                ((2, "deepspeed", zero), (4, "deepspeed", zero)),
                ((3, "deepspeed", zero), (2, "deepspeed", (zero + 1) % 4)),
            )
        ),
        pytest.param((4, "torch", 0), (2, "torch", 0), marks=SLOW),
        pytest.param((2, "torch", 0), (4, "torch", 0), marks=SLOW),
        pytest.param((4, "torch", 0), (2, "deepspeed", 3), marks=SLOW),
    ],
)
def test_a_run_goes_on_elsewhere(folder: Path, before: Way, after: Way) -> None:
    """20 steps of 12 rows, which three ranks share too."""
    more = {"tokens": 3840, "global_batch": 192, "micro_batch": 1}
    whole = reference(folder, f"whole-{before[0]}", (before[0], "torch", 0), **more)
    run = resumed(folder / f"{before}-{after}", [before, after], 10, **more)
    assert furthest(run, whole) < LIMIT["fp32"]
    assert run["eval_loss"] == pytest.approx(whole["eval_loss"], abs=LIMIT["fp32"])


def reference(folder: Path, name: str, way: Way, **more: Any) -> dict[str, Any]:
    """An undisturbed run, which is done once."""
    done = folder / name / "undisturbed.json"
    if not done.exists():
        run = run_ranks(folder / name, way[0], **asked(way, **more))
        done.write_text(json.dumps(run))
    found: dict[str, Any] = json.loads(done.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", [*TORCH, *ZERO], ids=str)
def test_resumed_twice_bit_for_bit(folder: Path, way: Way, precision: str) -> None:
    if precision == "bf16" and way[1:] == ("deepspeed", 0):
        pytest.skip("refused: gradients would not be accumulated in fp32")
    more = {"tokens": 1920, "global_batch": 128, "precision": precision}
    whole = run_ranks(folder / f"undisturbed-{way}-{precision}", way[0], **asked(way, **more))
    run = resumed(folder / f"twice-{way}-{precision}", [way] * 3, 5, **more)
    assert losses(run) == losses(whole)
    assert run["digest"] == whole["digest"]
    assert run["eval_loss"] == whole["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("way", [*TORCH, *ZERO], ids=str)
def test_the_matrix_of_ranks_stages_and_accumulation(
    folder: Path, way: Way, micro_batch: int, precision: str
) -> None:
    """50 steps of one global batch, against one process with one pass a step."""
    if precision == "bf16" and way[1:] == ("deepspeed", 0):
        pytest.skip("refused: gradients would not be accumulated in fp32")
    more = {"tokens": TOKENS, "global_batch": 128, "precision": precision}
    base: Way = (1, "torch", 0) if precision == "fp32" else (1, way[1], way[2])
    whole = reference(folder, f"matrix-{precision}-{base}", base, **more, micro_batch=8)
    out = folder / f"matrix-{way}-{micro_batch}-{precision}"
    run = run_ranks(out, way[0], **asked(way, **more, micro_batch=micro_batch))
    found = furthest(run, whole)
    print(f"{precision} {way[1]} ZeRO {way[2]}, {way[0]} ranks of {micro_batch}: {found:.1e} nats")
    assert len(losses(run)) == STEPS
    assert found < LIMIT[precision]
