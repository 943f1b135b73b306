"""Adam's second moments, read from the shards of every engine and stage, are those of AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from hpcscale.influence.snapshots import Snapshot, read_snapshots
from hpcscale.model.build import load_model
from training import make_store, run_ranks, train_here

pytestmark = pytest.mark.distributed
#: Three steps, so that runs that sum in another order have not come apart by more than rounding.
SETTINGS: dict[str, Any] = {"tokens": 384, "snapshots": 1, "micro_batch": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments")
    make_store(folder / "store")
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Snapshot:
    """Plain torch on one rank, which the unit tests hold to AdamW by hand."""
    return trained(folder / "reference", 1)


def trained(out: Path, world: int, **settings: Any) -> Snapshot:
    """The one snapshot of a run, which is run once; one rank runs in this process."""
    asked = {**SETTINGS, **settings}
    if (out / "snapshots").exists():
        pass
    elif world == 1:
        train_here(out, **asked)
    else:
        run_ranks(out, world, **asked)
    (snapshot,) = read_snapshots(out / "snapshots")
    return snapshot


def held(snapshot: Snapshot) -> list[int]:
    """Elements in each rank's file."""
    sizes = []
    for path in sorted(snapshot.folder.glob("moments-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            sizes.append(sum(file.get_slice(key).get_shape()[0] for key in keys))
    return sizes


def furthest(found: Snapshot, expected: Snapshot) -> float:
    """The largest relative distance of a parameter's moments."""
    moments, others = found.second_moments(), expected.second_moments()
    assert list(moments) == list(others)
    return max(
        float((moments[name] - v).norm() / v.norm().clamp(min=1e-30)) for name, v in others.items()
    )


def assert_shared(snapshot: Snapshot, world: int) -> None:
    """Nobody holds more than its share, but for the rounding of a cut."""
    whole = sum(p.numel() for p in load_model(snapshot.model).parameters())
    assert sum(held(snapshot)) == whole
    assert max(held(snapshot)) <= whole / world + 2 * len(snapshot.shapes)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("world", [pytest.param(1, marks=SLOW), 2])
@pytest.mark.parametrize(
    ("engine", "zero"), [("torch", 0), *(("deepspeed", stage) for stage in range(4))]
)
def test_the_moments_of_every_engine_are_those_of_one_process(
    folder: Path, reference: Snapshot, engine: str, zero: int, world: int
) -> None:
    snapshot = trained(folder / f"{engine}-{zero}-{world}", world, engine=engine, zero=zero)
    assert snapshot.t == reference.t == 3
    assert furthest(snapshot, reference) < 1e-6
    assert_shared(snapshot, world)


@pytest.mark.parametrize("zero", [pytest.param(1, marks=SLOW), 3])
def test_ranks_may_cut_parameters_anywhere(folder: Path, zero: int) -> None:
    """Three ranks: within parameters, and at stage 3 with a last shard that is filled up.

    A third of a loss is no binary number, hence more rounding than with two.
    """
    settings: dict[str, Any] = {"global_batch": 96, "tokens": 288, "micro_batch": 2}
    expected = trained(folder / f"by-three-{zero}", 1, **settings)
    snapshot = trained(folder / f"three-{zero}", 3, engine="deepspeed", zero=zero, **settings)
    assert furthest(snapshot, expected) < 5e-5
    assert_shared(snapshot, 3)


@pytest.mark.parametrize("zero", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)])
def test_bf16_moments_too(folder: Path, reference: Snapshot, zero: int) -> None:
    settings: dict[str, Any] = {"engine": "deepspeed", "precision": "bf16", "zero": zero}
    snapshot = trained(folder / f"bf16-{zero}", 2, **settings)
    assert furthest(snapshot, reference) < 0.05
    assert_shared(snapshot, 2)
    # Adam blows the noise of single gradients up; over all parameters it is small.
    found, expected = flat_weights(snapshot), flat_weights(reference)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.02 * expected.norm()


def flat_weights(snapshot: Snapshot) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_model(snapshot.model).parameters()])


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=SLOW)])
def test_moments_after_a_resume_are_those_of_an_undisturbed_run(folder: Path, zero: int) -> None:
    """A loaded state is not the one that an engine first linked its parameters to."""
    asked: dict[str, Any] = {**SETTINGS, "engine": "deepspeed", "zero": zero}
    undisturbed = trained(folder / f"deepspeed-{zero}-2", 2, **asked)
    out = folder / f"resumed-{zero}"
    assert run_ranks(out, 2, check=False, stop_at=1, **asked)["codes"] == [75, 75]
    resumed = trained(out, 2, **asked)
    assert (resumed.eta, resumed.t) == (undisturbed.eta, undisturbed.t)
    assert furthest(resumed, undisturbed) == 0
