from __future__ import annotations

import contextlib
import os
import signal

import pytest

from hpcscale.errors import Preempted
from hpcscale.train.signals import STOP_SIGNALS, StopFlag


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_work_that_cannot_be_saved_ends_at_once(number: signal.Signals) -> None:
    with StopFlag() as flag:
        with pytest.raises(Preempted, match=number.name):
            os.kill(os.getpid(), number)
        assert flag.is_set()


def _swallows_errors() -> None:
    with contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)


def test_nobody_on_the_way_takes_it_for_an_error() -> None:
    """As a reader would that tries another format where one fails."""
    with StopFlag(), pytest.raises(Preempted):
        _swallows_errors()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_work_that_can_be_saved_sees_a_flag(number: signal.Signals) -> None:
    with StopFlag() as flag:
        with flag.deferring():
            os.kill(os.getpid(), number)
            assert flag.is_set()
        with pytest.raises(Preempted):
            os.kill(os.getpid(), number)


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopFlag():
        pass
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
