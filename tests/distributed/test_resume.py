"""A run goes on from its checkpoints: bit for bit, or on other ranks, stages and engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runs import run_all
from training import make_store, read

pytestmark = pytest.mark.distributed
LIMIT = {"fp32": 1e-5, "bf16": 2e-3}
#: 50 steps of 8 rows of 16 tokens, and 20 of 12 rows, which three ranks share too.
LONG: dict[str, Any] = {"tokens": 6400, "global_batch": 128}
SHORT: dict[str, Any] = {"tokens": 3840, "global_batch": 192}
Way = tuple[str, int]  # engine, ZeRO stage
TORCH: Way = ("torch", 0)
WAYS: list[Way] = [TORCH, *(("deepspeed", zero) for zero in range(4))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_store(folder / "store", documents=300)
    return folder


def case(name: str, way: Way, **settings: Any) -> tuple[str, dict[str, Any]]:
    return name, {"engine": way[0], "zero": way[1], **settings}


def lines(folder: Path, name: str, key: str = "loss") -> list[float]:
    return [line[key] for line in read(folder / name)["lines"]]


def furthest(folder: Path, name: str, other: str) -> float:
    """The largest distance of two loss curves, in nats."""
    pairs = zip(lines(folder, name), lines(folder, other), strict=True)
    return max(abs(a - b) for a, b in pairs)


def test_a_run_goes_on_with_other_ranks_stages_and_engines(folder: Path) -> None:
    run_all(
        folder,
        2,
        [
            case("whole", TORCH, **SHORT),
            case("fewer", ("deepspeed", 2), **SHORT, stop_at=8),
            case("engine", TORCH, **SHORT, stop_at=10),
            case("engine", ("deepspeed", 1), **SHORT),
        ],
    )
    run_all(folder, 1, [case("fewer", ("deepspeed", 3), **SHORT, stop_at=5)])
    run_all(folder, 2, [case("fewer", TORCH, **SHORT)])
    assert len(lines(folder, "whole")) == 20
    assert furthest(folder, "fewer", "whole") < LIMIT["fp32"]
    assert furthest(folder, "engine", "whole") < LIMIT["fp32"]


def precisions(way: Way) -> list[str]:
    """DeepSpeed cannot accumulate bf16 gradients in fp32 at stage 0."""
    return ["fp32"] if way == ("deepspeed", 0) else ["fp32", "bf16"]


KINDS = [(way, precision) for way in WAYS for precision in precisions(way)]
of_each_kind = pytest.mark.parametrize(("way", "precision"), KINDS, ids=str)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@of_each_kind
def test_resumed_twice_bit_for_bit(folder: Path, way: Way, precision: str, world: int) -> None:
    name = f"{world}-{way[0]}-{way[1]}-{precision}"
    asked = {**SHORT, "precision": precision}
    stopped = [case(f"twice-{name}", way, **asked, stop_at=stop) for stop in (7, 6, 0)]
    run_all(folder, world, [case(f"undisturbed-{name}", way, **asked), *stopped])
    for key in ("loss", "grad_norm"):
        whole = lines(folder, f"undisturbed-{name}", key)
        assert len(whole) == 20
        assert lines(folder, f"twice-{name}", key) == whole


@pytest.mark.slow
@of_each_kind
def test_from_four_ranks_to_two_and_back(folder: Path, way: Way, precision: str) -> None:
    asked: dict[str, Any] = {**SHORT, "precision": precision}
    base, two, four = (f"{x}-{way[0]}-{way[1]}-{precision}" for x in ("base", "to-two", "to-four"))
    run_all(folder, 4, [case(base, way, **asked), case(two, way, **asked, stop_at=10)])
    run_all(folder, 2, [case(two, way, **asked), case(four, way, **asked, stop_at=10)])
    run_all(folder, 4, [case(four, way, **asked)])
    for moved in (two, four):
        found = furthest(folder, moved, base)
        print(f"{moved}: {found:.1e} nats")
        assert found < LIMIT[precision]


@pytest.mark.slow
def test_from_three_ranks_to_another_stage_on_two(folder: Path) -> None:
    """Whose cuts lie elsewhere."""
    run_all(folder, 3, [case(f"cut-{way[1]}", way, **SHORT, stop_at=10) for way in WAYS[1:]])
    others = [case(f"cut-{zero}", ("deepspeed", (zero + 1) % 4), **SHORT) for zero in range(4)]
    run_all(folder, 2, [case("uncut", TORCH, **SHORT), *others])
    for zero in range(4):
        assert furthest(folder, f"cut-{zero}", "uncut") < LIMIT["fp32"]


@pytest.mark.slow
@of_each_kind
def test_ranks_stages_and_accumulation_at_one_global_batch(
    folder: Path, way: Way, precision: str
) -> None:
    """50 steps; against one pass on one rank: of torch in fp32, of its own kind in bf16."""
    against = way if precision == "bf16" else TORCH
    base = f"matrix-{way[0]}-{way[1]}-{precision}"
    asked: dict[str, Any] = {**LONG, "precision": precision}
    found = {}
    for world in (1, 2, 4):
        batches = sorted({8 // world, 2, 1})
        names = [f"{base}-{world}-{micro}" for micro in batches]
        cases = [
            case(name, way, **asked, micro_batch=micro)
            for name, micro in zip(names, batches, strict=True)
        ]
        if world == 1:
            cases.append(case(base, against, **asked, micro_batch=8))
        run_all(folder, world, cases)
        found |= {name: furthest(folder, name, base) for name in names}
    for name, distance in found.items():
        print(f"{name}: {distance:.1e} nats")
    assert all(len(lines(folder, name)) == 50 for name in found)
    assert max(found.values()) < LIMIT[precision]
