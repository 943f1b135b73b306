"""The batches of a run, read from the memory map one pass ahead of the computation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpcscale.data.packing import Batch, PackedStream
from hpcscale.train.batching import BatchPlan
from hpcscale.train.distributed import Ranks

#: The arguments of ``token_nll`` after the model: inputs, targets, segments, positions.
NllArguments = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass of one rank.

    ``weightless``: the rank has no rows left in a short last batch; it repeats a row, which counts
    nothing. ``last``: the optimizer steps after it.
    """

    batch: Batch
    arguments: NllArguments
    weightless: bool
    last: bool


class Prefetch:
    """This rank's passes from ``step`` (counted from 0) on, in order. A context manager.

    A thread reads them, so that a cold page or a slow file system does not stop the run, and the
    copy to a GPU starts early. Worker processes would gain nothing: tokens need no processing.
    """

    def __init__(
        self, stream: PackedStream, plan: BatchPlan, ranks: Ranks, step: int, positions: bool
    ) -> None:
        """``positions``: give position ids under every packing."""
        self._stream, self._ranks, self._positions = stream, ranks, positions
        self._upcoming = _places(plan, ranks.rank, step)
        self._reader = ThreadPoolExecutor(
            1, "prefetch", initializer=_choose_device, initargs=(ranks,)
        )
        self._next = self._request()
        self.waited = 0.0

    def step(self) -> Iterator[Pass]:
        """The passes of the next step; ``waited``: the seconds that the caller waited for them."""
        self.waited = 0.0
        last = False
        while not last:
            began = time.perf_counter()
            assert self._next is not None, "there are no more steps"
            ready = self._next.result()
            self.waited += time.perf_counter() - began
            self._next = self._request()
            last = ready.last
            yield ready

    def _request(self) -> Future[Pass] | None:
        place = next(self._upcoming, None)
        return None if place is None else self._reader.submit(self._read, *place)

    def _read(self, first: int, end: int, last: bool) -> Pass:
        empty = first == end
        batch = self._stream.rows(first - empty, end)
        arguments = batch_tensors(batch, self._stream, self._ranks, self._positions)
        return Pass(batch, arguments, empty, last)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.shutdown(cancel_futures=True)


def _places(plan: BatchPlan, rank: int, first_step: int) -> Iterator[tuple[int, int, bool]]:
    """Rows [first, end) of each pass, and whether it is its step's last."""
    for step in range(first_step, plan.steps):
        passes = list(plan.passes(step, rank))
        for index, (first, end) in enumerate(passes):
            yield first, end, index == len(passes) - 1


def _choose_device(ranks: Ranks) -> None:
    """A thread starts on GPU 0, and would open a second context there."""
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)


def batch_tensors(
    batch: Batch, stream: PackedStream, ranks: Ranks, positions: bool = False
) -> NllArguments:
    """``batch`` on the rank's device. Segments are given only under `packing: isolate` where a row
    holds several; position ids there too, and always if ``positions``."""
    one_segment = bool((batch.segments == batch.segments[:, :1]).all())
    apart = stream.packing == "isolate" and not one_segment

    def tensor(part: npt.NDArray[np.int64]) -> Tensor:
        there = torch.from_numpy(part)
        if ranks.device.type == "cuda":
            there = there.pin_memory().to(ranks.device, non_blocking=True)
        return there

    return (
        tensor(batch.inputs),
        tensor(batch.targets),
        tensor(batch.segments) if apart else None,
        tensor(batch.positions) if apart or positions else None,
    )
