"""Guards against divergence: non-finite steps stop a run or are skipped; spikes are recorded.

nonfinite.jsonl    each such step, with its rows and the ids of their documents
spikes.jsonl       each loss far above those before it, with the same; the run goes on
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass
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
#: How many earlier losses a spike is measured against, at most and at least.
_WINDOW, _ENOUGH = 100, 20
#: After so many halvings in a row from 2^16, the loss scale is not what is wrong.
_OVERFLOWS = 40

#: Why a step updated nothing: `on_nonfinite: skip`, or an overflow of fp16's loss scale.
Skipped = Literal["nonfinite", "overflow"]


@dataclass
class Counts:
    """The steps of a run without an update, and how many of them end it without a gap."""

    nonfinite: int = 0
    overflow: int = 0
    in_a_row: int = 0

    def add(self, skipped: Skipped | None) -> None:
        self.nonfinite += skipped == "nonfinite"
        self.overflow += skipped == "overflow"
        self.in_a_row = self.in_a_row + 1 if skipped else 0


class Guard:
    """Judges each step by its loss and gradient norm, which are the same on all ranks.

    Where the norm is not finite, an engine updates nothing on any rank, so skipping a step means
    just going on. Counts are restored from the metrics of earlier attempts: a resumed run decides
    as an uninterrupted one. A context manager.
    """

    def __init__(
        self,
        config: TrainConfig,
        precision: str,
        ranks: Ranks,
        out: Path,
        batch_of: Callable[[int], dict[str, Any]],
    ) -> None:
        """``batch_of``: what is recorded of the batch of a step, counted from 1."""
        self.limit = config.max_skipped if config.on_nonfinite == "skip" else 0
        self.deviations = config.spike_deviations
        self.scaled = precision == "fp16"
        self.ranks, self.out, self.batch_of = ranks, out, batch_of
        self.counts = Counts()
        self.losses: deque[float] = deque(maxlen=_WINDOW)
        self.last_loss = math.nan
        self._logs: dict[str, StepLog] = {}

    def resume(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Start after ``step``; ``lines``: the metrics up to it, on rank 0. Collective."""
        for line in lines:
            self.counts.add(line.get("skipped"))
        self.counts = Counts(*self.ranks.broadcast(astuple(self.counts)).tolist())
        if self.ranks.rank == 0:
            applied = [line["loss"] for line in lines if not line.get("skipped")]
            self.losses.extend(applied[-_WINDOW:])
            self.last_loss = applied[-1] if applied else math.nan
            self._logs = {name: StepLog(self.out / name, step) for name in (NONFINITE, SPIKES)}

    def judge(self, step: int, loss: float, norm: float) -> Skipped | None:
        """Why ``step`` (counted from 1) updated nothing; None if it did.

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
            line = {"step": step, "loss": finite(loss), "grad_norm": finite(norm)}
            action = "skip" if goes_on else "stop"
            self._logs[NONFINITE].write({**line, "action": action, **self.batch_of(step)})
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
            # 1.4826 makes this the standard deviation, of a normal distribution.
            spread = 1.4826 * statistics.median(abs(x - median) for x in self.losses)
            if loss > median + self.deviations * spread:
                line = {"step": step, "loss": loss, "median": median, "deviation": spread}
                self._logs[SPIKES].write({**line, **self.batch_of(step)})
        self.losses.append(loss)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: object) -> None:
        for log in self._logs.values():
            log.close()


def describe_batch(stream: PackedStream, plan: BatchPlan, step: int) -> dict[str, Any]:
    """Rows [first, end) of ``step`` (counted from 1) and, row by row, the ids of their documents
    as 16 hex digits, in order."""
    first, end = plan.step_rows(step - 1)
    rows = [[f"{int(i):016x}" for i in stream.row_ids(row)] for row in range(first, end)]
    return {"rows": [first, end], "documents": rows}
