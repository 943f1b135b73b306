"""Faults without a scheduler: the sweep says what happened, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.conftest import Battery, Start
from faults.harness import (
    EVERY,
    WRITING,
    Disturbed,
    Ending,
    break_newest_checkpoint,
    eventually,
    saving,
    small_disk,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow]
AT = 50


def local_ranks(cell: Disturbed) -> list[int]:
    """Rank 0, and what was forked beside it."""
    record = cell.running()
    assert record is not None
    first = int(record["pid"])
    parent = _parent(first)
    beside = [pid for pid in _processes() if _parent(pid) == parent and pid > first]
    return [first, *beside]


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # ended meanwhile


def go_on(cell: Disturbed, fault: Callable[[], None], code: int) -> float:
    """Seconds from the second call until a step more is done than before the fault."""
    fault()
    cell.finish(code)
    most, began = cell.steps(), time.monotonic()
    cell.start()
    cell.reach(most + 1)
    back = time.monotonic() - began
    cell.finish()
    return back


@pytest.mark.parametrize("count", [1, 2])
def test_killed_ranks(
    count: int, start_local: Start, battery: Battery, undisturbed: Ending
) -> None:
    cell = start_local()
    cell.reach(AT)

    def fault() -> None:
        for pid in local_ranks(cell)[-count:]:
            os.kill(pid, signal.SIGKILL)

    back = go_on(cell, fault, 1)
    name = "`kill -9` of one rank" if count == 1 else "`kill -9` of all ranks"
    battery.note(name, "one machine", cell, undisturbed, back, EVERY)


@pytest.mark.parametrize("when", ["", " during a save"])
def test_stopped_sweep(
    when: str, start_local: Start, battery: Battery, undisturbed: Ending
) -> None:
    cell = start_local()
    cell.reach(AT)

    def fault() -> None:
        if when:
            eventually(lambda: saving(cell.cell), 60, 0.0005)
        assert cell.process is not None
        cell.process.terminate()

    back = go_on(cell, fault, 130)
    battery.note(f"SIGTERM to the sweep{when}", "one machine", cell, undisturbed, back, 0)


def test_killed_sweep(start_local: Start, battery: Battery, undisturbed: Ending) -> None:
    """Its ranks notice, save and end."""
    cell = start_local()
    cell.reach(AT)

    def fault() -> None:
        assert cell.process is not None
        ranks = local_ranks(cell)
        cell.process.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 30)

    back = go_on(cell, fault, -signal.SIGKILL)
    battery.note("`kill -9` of the sweep", "one machine", cell, undisturbed, back, 0)


@pytest.mark.parametrize("damage", ["truncated", "bit-flipped"])
def test_broken_checkpoint(
    damage: str, start_local: Start, battery: Battery, undisturbed: Ending
) -> None:
    cell = start_local()
    cell.reach(AT)

    def fault() -> None:
        for pid in local_ranks(cell):
            os.kill(pid, signal.SIGKILL)
        cell.finish(1)
        break_newest_checkpoint(cell.cell, damage)

    back = go_on(cell, fault, 1)
    battery.note(f"newest checkpoint {damage}", "one machine", cell, undisturbed, back, 2 * EVERY)


def test_a_full_disk(start_local: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_local()
    eventually(lambda: list(cell.run.glob("cells/random-*")), 60)
    with small_disk(cell.cell / "checkpoints", 2) as room:

        def fault() -> None:
            output = cell.finish(1)
            assert "No space left on device" in output, output
            room()

        back = go_on(cell, fault, 1)
    battery.note("disk full during a save", "one machine", cell, undisturbed, back, EVERY + WRITING)
