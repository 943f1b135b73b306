"""The metrics of a run: a line a step in metrics.jsonl, the file of record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hpcscale.atomic import write_text
from hpcscale.model.peaks import peak_flops
from hpcscale.train.distributed import Ranks, device_name, peak_memory


class StepLog:
    """A file of JSON lines, one a step. A context manager.

    Lines of steps after ``step``, which the run does again, are dropped when it is opened. The
    first line written creates the file.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        found = _read(path)
        #: The last step that an earlier attempt wrote.
        self.seen = max((line["step"] for line in found), default=0)
        self.lines = [line for line in found if line["step"] <= step]
        if found:
            write_text(path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._handle: TextIO | None = None

    def write(self, line: dict[str, Any]) -> None:
        if self._handle is None:
            self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._handle.write(json.dumps(line, allow_nan=False) + "\n")
        self._handle.flush()

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # the write that the kill cut short
    return lines


def finite(value: float) -> float | None:
    """``value``, or None for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Meter:
    """Speed relative to the hardware.

    flops: of training, per token. peak: of one device, FLOP/s. None where they are not known.
    """

    ranks: Ranks
    flops: float | None
    peak: float | None

    @classmethod
    def of(cls, ranks: Ranks, flops: float | None, precision: str) -> Meter:
        return cls(ranks, flops, peak_flops(device_name(ranks), precision))

    def mfu(self, tokens: int, device_seconds: float) -> float | None:
        """Model FLOPs utilisation: the fraction of the devices' peak that ``tokens`` needed. None
        where the peak or the FLOPs of a token are not known."""
        if self.peak is None or self.flops is None or not device_seconds:
            return None
        return self.flops * tokens / (device_seconds * self.peak)

    def line(self, tokens: int, seconds: float, data_wait: float) -> dict[str, Any]:
        """The metrics of one step of all ranks; the wait and the memory are this rank's."""
        return {
            "tokens_per_second": tokens / seconds,
            "data_wait_seconds": data_wait,
            "peak_memory_bytes": peak_memory(self.ranks),
            "mfu": self.mfu(tokens, seconds * self.ranks.world_size),
        }


class Recorder:
    """Rank 0's record of a run: writes metrics.jsonl and passes each line to ``listeners``."""

    def __init__(
        self, log: StepLog, world_size: int, listeners: Sequence[Callable[[dict[str, Any]], None]]
    ) -> None:
        self.log, self.world_size, self.listeners = log, world_size, listeners
        self.last: dict[str, Any] = log.lines[-1] if log.lines else {}

    def write(self, line: dict[str, Any]) -> None:
        """Adds ``device_hours``: of all attempts, each with its own number of ranks."""
        before = self.last.get("seconds", 0.0), self.last.get("device_hours", 0.0)
        hours = (line["seconds"] - before[0]) * self.world_size / 3600
        self.last = line | {"device_hours": before[1] + hours}
        self.log.write(self.last)
        for tell in self.listeners:
            tell(self.last)
