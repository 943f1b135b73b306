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
    run_all(folder, 2, [
        case("whole", TORCH, **SHORT),
        case("fewer", ("deepspeed", 2), **SHORT, stop_at=8),
        case("engine", TORCH, **SHORT, stop_at=10),
        case("engine", ("deepspeed", 1), **SHORT),
    ])  # fmt: skip
    run_all(folder, 1, [case("fewer", ("deepspeed", 3), **SHORT, stop_at=5)])
    run_all(folder, 2, [case("fewer", TORCH, **SHORT)])
    assert len(lines(folder, "whole")) == 20
    assert furthest(folder, "fewer", "whole") < LIMIT["fp32"]
    assert furthest(folder, "engine", "whole") < LIMIT["fp32"]


def precisions(way: Way) -> list[str]:
    """DeepSpeed cannot accumulate bf16 gradients in fp32 at stage 0."""
    return ["fp32"] if way == ("deepspeed", 0) else ["fp32", "bf16"]


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_resumed_twice_bit_for_bit(folder: Path, world: int) -> None:
    cases, names = [], []
    for way in WAYS:
        for precision in precisions(way):
            name = f"{world}-{way[0]}-{way[1]}-{precision}"
            asked = {**SHORT, "precision": precision}
            cases += [case(f"undisturbed-{name}", way, **asked)]
            cases += [case(f"twice-{name}", way, **asked, stop_at=stop) for stop in (7, 6, 0)]
            names.append(name)
    run_all(folder, world, cases)
    for name in names:
        for key in ("loss", "grad_norm"):
            whole = lines(folder, f"undisturbed-{name}", key)
            assert len(whole) == 20
            assert lines(folder, f"twice-{name}", key) == whole, name


@pytest.mark.slow
def test_from_four_ranks_to_two_and_back(folder: Path) -> None:
    """Every stage and precision; three ranks to another stage on two, whose cuts lie elsewhere."""
    kinds = [(way, precision) for way in WAYS for precision in precisions(way)]

    def cases(name: str, **more: Any) -> list[tuple[str, dict[str, Any]]]:
        return [
            case(f"{name}-{way[0]}-{way[1]}-{precision}", way, **SHORT, precision=precision, **more)
            for way, precision in kinds
        ]

    run_all(folder, 4, [*cases("base"), *cases("to-two", stop_at=10)])
    run_all(folder, 3, [case(f"cut-{way[1]}", way, **SHORT, stop_at=10) for way in WAYS[1:]])
    others = [case(f"cut-{zero}", ("deepspeed", (zero + 1) % 4), **SHORT) for zero in range(4)]
    run_all(folder, 2, [*cases("to-two"), *cases("to-four", stop_at=10), *others])
    run_all(folder, 4, cases("to-four"))
    for way, precision in kinds:
        name = f"{way[0]}-{way[1]}-{precision}"
        for move in ("to-two", "to-four"):
            found = furthest(folder, f"{move}-{name}", f"base-{name}")
            print(f"{move} {name}: {found:.1e} nats")
            assert found < LIMIT[precision], (move, name)
    for zero in range(4):
        assert furthest(folder, f"cut-{zero}", "base-torch-0-fp32") < LIMIT["fp32"]


@pytest.mark.slow
def test_ranks_stages_and_accumulation_at_one_global_batch(folder: Path) -> None:
    """50 steps; against one pass on one rank: of torch in fp32, of its own kind in bf16."""
    kinds = [(way, precision) for way in WAYS for precision in precisions(way)]
    compared = []
    for world in (1, 2, 4):
        cases = []
        for way, precision in kinds:
            for micro in {8 // world, 2, 1}:
                name = f"matrix-{world}-{micro}-{way[0]}-{way[1]}-{precision}"
                cases.append(case(name, way, **LONG, precision=precision, micro_batch=micro))
                base = f"{way[0]}-{way[1]}-bf16" if precision == "bf16" else "torch-0-fp32"
                compared.append((name, f"matrix-1-8-{base}", precision))
        run_all(folder, world, cases)
    found = {name: furthest(folder, name, base) for name, base, _ in compared}
    for name, distance in found.items():
        print(f"{name}: {distance:.1e} nats")
    assert all(len(lines(folder, name)) == 50 for name in found)
    assert not [name for name, _, precision in compared if found[name] >= LIMIT[precision]]
