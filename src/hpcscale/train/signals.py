"""SIGTERM and SIGUSR2: they set a flag for the training loop, which saves, and end other work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from hpcscale.errors import Preempted

#: Slurm sends USR2 ahead of a time limit or preemption, and TERM when it is serious.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopFlag:
    """A context in which a stop signal raises Preempted or, under ``deferring``, sets a flag."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._set.set()
        if not self._deferred:
            raise Preempted(f"stopped by {signal.Signals(number).name}")

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Only set the flag: the work inside polls it, saves, and raises Preempted itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def is_set(self) -> bool:
        return self._set.is_set()


@dataclass
class LeadTime:
    """How long a stop takes at most: the signal arrives as a step begins, and a save follows.

    step, save: the longest seen, in seconds.
    """

    step: float = 0.0
    save: float = 0.0

    def note_step(self, seconds: float) -> None:
        self.step = max(self.step, seconds)

    def note_save(self, seconds: float) -> None:
        self.save = max(self.save, seconds)

    @property
    def seconds(self) -> float:
        return self.step + self.save
