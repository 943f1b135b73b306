"""Each collective of two real ranks gives what numpy gives of both ranks' values."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcscale.train.agreement import SaveProgress, StepRequests
from hpcscale.train.distributed import Ranks

WORLD = 2
SHAPE = (2, 3)
DTYPES = ("uint8", "int64", "float64")
PROGRESS = (SaveProgress(writing=True), SaveProgress(failed=True))
REQUESTS = (
    StepRequests(stop=False, save=True, progress=SaveProgress()),
    StepRequests(stop=True, save=False, progress=PROGRESS[0]),
)
#: Longer on rank 0, shorter, and empty.
LISTS: list[list[list[int]]] = [[[3, 1, 2**40], [5]], [[-7], [1, 2, 3]], [[], [4]]]


def values(rank: int, dtype: str) -> np.ndarray[Any, Any]:
    """As many different numbers on each rank; integers that float64 cannot hold among them."""
    drawn = np.random.default_rng(rank).integers(0, 200, SHAPE).astype(dtype)
    return drawn + (2**53 + rank if dtype == "int64" else 0)


def found(ranks: Ranks) -> dict[str, Any]:
    """What one rank gets back; the others call the same."""
    mine = {dtype: values(ranks.rank, dtype) for dtype in DTYPES}
    untouched = {dtype: array.copy() for dtype, array in mine.items()}
    answers: dict[str, Any] = {
        "sum": ranks.all_sum(mine["float64"]).tolist(),
        "max": ranks.all_max(mine["int64"]).tolist(),
        "any": [ranks.any_true(flag) for flag in (False, ranks.rank == 1, True)],
        "each": ranks.any_of_each([False, ranks.rank == 0, ranks.rank == 1, True]),
        "broadcast": [ranks.broadcast(lists[ranks.rank]).tolist() for lists in LISTS],
        "progress": PROGRESS[ranks.rank].agree(ranks) == SaveProgress(True, True),
        "requests": REQUESTS[ranks.rank].agree(ranks)
        == StepRequests(stop=True, save=True, progress=SaveProgress(writing=True)),
    }
    for dtype, array in mine.items():
        gathered = ranks.all_gather(array)
        assert gathered.dtype == dtype
        answers[f"gather {dtype}"] = gathered.tolist()
        assert np.array_equal(array, untouched[dtype]), "what a rank gives is not written to"
    return answers


def expected() -> dict[str, Any]:
    both = {dtype: np.stack([values(r, dtype) for r in range(WORLD)]) for dtype in DTYPES}
    return {
        "sum": both["float64"].sum(0).tolist(),
        "max": both["int64"].max(0).tolist(),
        "any": [False, True, True],
        "each": [False, True, True, True],
        "broadcast": [lists[0] for lists in LISTS],
        "progress": True,
        "requests": True,
        **{f"gather {dtype}": stacked.tolist() for dtype, stacked in both.items()},
    }


@pytest.mark.distributed
def test_two_ranks_get_what_numpy_says() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "test_collectives"],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * WORLD, outputs
    for output, _ in outputs:
        assert json.loads(output) == expected()


def test_one_rank_gets_its_own_values_without_a_group() -> None:
    alone = Ranks()
    for dtype in DTYPES:
        assert alone.all_gather(values(0, dtype)).tolist() == [values(0, dtype).tolist()]
    assert alone.all_sum([1.5, 2]).tolist() == [1.5, 2]
    assert alone.all_max([3, 1]).tolist() == [3, 1]
    assert alone.broadcast([]).tolist() == []
    assert alone.any_of_each([True, False]) == [True, False]
    assert REQUESTS[1].agree(alone) == REQUESTS[1]
    alone.barrier()


if __name__ == "__main__":
    print(json.dumps(found(Ranks.from_environment())), flush=True)
    os._exit(0)
