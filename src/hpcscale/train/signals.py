"""Turning SIGTERM and SIGUSR2 into a flag that the training loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: Slurm sends USR2 ahead of a time limit or preemption, and TERM when it is serious.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopFlag:
    """A context in which the stop signals set a flag instead of ending the process."""

    def __init__(self) -> None:
        self._set = threading.Event()
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

    def is_set(self) -> bool:
        return self._set.is_set()
