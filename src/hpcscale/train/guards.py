"""Guards against divergence: steps that are not finite stop a run or are skipped; spikes are noted.

nonfinite.jsonl    such a step, its rows and the ids of their documents
spikes.jsonl       a loss far above those before it, with the same; nothing is done about it
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.errors import TrainingError
from hpcscale.train.batching import BatchPlan
from hpcscale.train.distributed import Ranks
from hpcscale.train.metrics import StepLog, finite

NONFINITE = "nonfinite.jsonl"
SPIKES = "spikes.jsonl"
#: Losses that a spike is measured against, at most and at least.
_WINDOW, _ENOUGH = 100, 20
#: A loss scale that starts at 2^16 and is halved this often in a row was not the problem.
_OVERFLOWS = 40

#: Why a step updated nothing: left out by ``on_nonfinite: skip``, or too high a loss scale of fp16.
Skipped = Literal["nonfinite", "overflow"]


@dataclass
class Counts:
    """Of a whole run: steps without an update, and how many of the newest steps those are."""

    nonfinite: int = 0
    overflow: int = 0
    in_a_row: int = 0

    def add(self, skipped: Skipped | None) -> None:
        self.nonfinite += skipped == "nonfinite"
        self.overflow += skipped == "overflow"
        self.in_a_row = self.in_a_row + 1 if skipped else 0


class Guard:
    """Judges each step by its loss and gradient norm, which are the same on all ranks.

    An engine updates nothing, on any rank, where the norm is not finite; so that to skip a step is
    to go on. Counts come back from the metrics of the attempts before: a resumed run decides as
    one that was not disturbed.
    """

    def __init__(
        self, config: TrainConfig, precision: str, ranks: Ranks, out: Path, skip: bool,
        batch_of: Callable[[int], dict[str, Any]],
    ) -> None:  # fmt: skip
        """``skip``: whether non-finite steps may be left out. ``batch_of``: what is recorded of a
        step's batch."""
        self.limit = config.max_skipped if skip else 0
        self.deviations = config.spike_deviations
        self.scaled = precision == "fp16"
        self.ranks, self.out, self.batch_of = ranks, out, batch_of
        self.counts = Counts()
        self.losses: deque[float] = deque(maxlen=_WINDOW)
        self.last_loss = math.nan
        self._files: list[StepLog] = []

    def resume(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Go on from ``step``; ``lines``: the metrics up to there, on rank 0. Collective."""
        for line in lines:
            self.counts.add(line.get("skipped"))
        known = [self.counts.nonfinite, self.counts.overflow, self.counts.in_a_row]
        self.counts = Counts(*(int(n) for n in self.ranks.all_sum(known)))
        if self.ranks.rank == 0:
            applied = [line["loss"] for line in lines if not line.get("skipped")]
            self.losses.extend(applied[-_WINDOW:])
            self.last_loss = applied[-1] if applied else math.nan
            self._files = [StepLog(self.out / name, step) for name in (NONFINITE, SPIKES)]

    def judge(self, step: int, loss: float, norm: float) -> Skipped | None:
        """Why ``step`` (counted from 1) updated nothing; None: it did.

        Raises TrainingError where loss or gradient are not finite and the run may not go on.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.counts.add(None)
            self.last_loss = loss
            self._look_for_spike(step, loss)
            return None
        overflow = self.scaled and math.isfinite(loss) and self.counts.in_a_row < _OVERFLOWS
        if overflow:
            self.counts.add("overflow")
            return "overflow"
        goes_on = self.counts.in_a_row < self.limit
        if self.ranks.rank == 0:
            self._files[0].write(
                {"step": step, "loss": finite(loss), "grad_norm": finite(norm),
                 "action": "skip" if goes_on else "stop", **self.batch_of(step)}
            )  # fmt: skip
        if not goes_on:
            raise TrainingError(self._message(step, loss, norm))
        self.counts.add("nonfinite")
        return "nonfinite"

    def _message(self, step: int, loss: float, norm: float) -> str:
        after = f" after {self.counts.in_a_row} steps that were skipped" if self.limit else ""
        return (
            f"step {step}: loss {loss}, gradient norm {norm}{after}; {self.out / NONFINITE} names "
            "the documents of its batch; lower train.lr, lengthen train.warmup or set "
            "train.precision: fp32; or leave such steps out with train.on_nonfinite: skip (at most "
            "train.max_skipped in a row); then run again"
        )

    def _look_for_spike(self, step: int, loss: float) -> None:
        if self.ranks.rank or not self.deviations:
            return
        if len(self.losses) >= _ENOUGH:
            median = statistics.median(self.losses)
            # 1.4826: of a normal distribution, what makes this its standard deviation.
            spread = 1.4826 * statistics.median(abs(x - median) for x in self.losses)
            if loss > median + self.deviations * spread:
                self._files[1].write(
                    {"step": step, "loss": loss, "median": median, "deviation": spread,
                     **self.batch_of(step)}
                )  # fmt: skip
        self.losses.append(loss)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.close()


def describe_batch(stream: PackedStream, plan: BatchPlan, step: int) -> dict[str, Any]:
    """Rows [first, end) of ``step`` (counted from 1) and, row by row, the ids of their documents
    as 16 hex digits, in order."""
    first, end = plan.step_rows(step - 1)
    rows = [[f"{int(i):016x}" for i in stream.row_ids(row)] for row in range(first, end)]
    return {"rows": [first, end], "documents": rows}
