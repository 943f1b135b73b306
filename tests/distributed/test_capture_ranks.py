"""Captured rows do not depend on ranks, engines or a resume, and ZeRO-3 is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcscale.influence.capture_store import CapturedRows, read_capture
from hpcscale.influence.gradient_shards import unpack
from training import make_store, run_ranks, train_here

pytestmark = pytest.mark.distributed
#: Four steps; in the last one the second rank has no row and repeats one without weight.
SETTINGS: dict[str, Any] = {
    "tokens": 3 * 128 + 40,
    "packing": "isolate",
    "capture": "fp32",
    "lr": 1e-3,
    "micro_batch": 4,
}
COLUMNS = ("ids", "rows", "steps", "rates", "intervals", "shares")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture-ranks")
    make_store(folder / "store")
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> CapturedRows:
    """One rank, which the unit tests hold to autograd."""
    train_here(folder / "reference", **SETTINGS)
    return read_capture(folder / "reference" / "capture")


def order_of(rows: CapturedRows) -> np.ndarray:  # type: ignore[type-arg]
    """Which row comes first does depend on the ranks; packed row and document name each."""
    return np.lexsort((rows.ids, rows.rows, rows.steps))


def vectors(rows: CapturedRows) -> np.ndarray:  # type: ignore[type-arg]
    unit = unpack(rows.take(order_of(rows)), rows.dtype).double().numpy()
    return unit * rows.norms[order_of(rows), None].astype(np.float64)


def assert_same(found: CapturedRows, expected: CapturedRows, limit: float) -> None:
    for name in COLUMNS:
        one, other = (getattr(rows, name)[order_of(rows)] for rows in (found, expected))
        np.testing.assert_array_equal(one, other, err_msg=name)
    first, second = vectors(found), vectors(expected)
    assert np.linalg.norm(first - second) <= limit * np.linalg.norm(second)


@pytest.mark.parametrize(
    ("engine", "zero"), [("torch", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2)]
)
def test_two_ranks_capture_what_one_does(
    folder: Path, reference: CapturedRows, engine: str, zero: int
) -> None:
    out = folder / f"{engine}-{zero}"
    run_ranks(out, 2, engine=engine, zero=zero, **SETTINGS)
    found = read_capture(out / "capture")
    counts = found.facts["ranks"]
    assert len(counts) == 2
    assert all(counts.values())
    assert_same(found, reference, 1e-5)


def test_a_stopped_run_captures_what_an_undisturbed_one_does(folder: Path) -> None:
    settings = {**SETTINGS, "engine": "deepspeed", "zero": 1}
    whole = folder / "deepspeed-1"
    if not whole.exists():
        run_ranks(whole, 2, **settings)
    out = folder / "stopped"
    assert run_ranks(out, 2, check=False, stop_at=2, **settings)["codes"] == [75, 75]
    run_ranks(out, 2, **settings)
    assert_same(read_capture(out / "capture"), read_capture(whole / "capture"), 0)


def test_a_run_may_go_on_with_fewer_ranks(folder: Path, reference: CapturedRows) -> None:
    """The rows that a rank left which is no more are kept, or cut back with the others'."""
    out = folder / "fewer"
    assert run_ranks(out, 2, check=False, stop_at=2, **SETTINGS)["codes"] == [75, 75]
    left = out / "capture" / "rank-00001"
    # As of a third step that was not saved.
    for path in left.glob("*.npy"):
        rows = np.load(path)
        more = np.full_like(rows[:2], 3) if path.stem == "steps" else rows[:2]
        np.save(path, np.concatenate([rows, more]))
    train_here(out, **SETTINGS)
    found = read_capture(out / "capture")
    assert list(found.facts["ranks"]) == ["rank-00000", "rank-00001"]
    assert_same(found, reference, 1e-5)


def test_zero_3_is_refused_with_the_way_out(folder: Path) -> None:
    settings = {**SETTINGS, "engine": "deepspeed", "zero": 3}
    refused = run_ranks(folder / "zero-3", 2, check=False, **settings)
    assert refused["codes"] == [2, 2], refused["output"]
    assert "write train.zero: 0, 1 or 2, or write `way: dump`" in refused["output"]
