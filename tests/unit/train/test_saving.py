"""When state is saved, how long a stop takes, and what a full disk is called."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from hpcscale.config.train import CheckpointConfig, TrainConfig
from hpcscale.errors import CheckpointError
from hpcscale.train.checkpoint import Position
from hpcscale.train.loop import _counted
from hpcscale.train.room import need_of_room
from hpcscale.train.signals import LeadTime

_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.parametrize(
    ("checkpoint", "saved_at"),
    [({"every_steps": 3}, [3, 6, 9]), ({"every_tokens": 250}, [3, 5, 8]),
     ({"every_tokens": 100}, list(range(1, 10))), ({"every_tokens": 50}, list(range(1, 10))),
     ({"every_steps": 4, "every_tokens": "1k"}, [4, 8]), ({}, [])],
)  # fmt: skip
def test_state_is_saved_by_steps_or_tokens(checkpoint: dict[str, int], saved_at: list[int]) -> None:
    """Of 9 steps of 100 tokens: after each that completes a multiple."""
    config = TrainConfig(global_batch=100, checkpoint=CheckpointConfig(**checkpoint))  # type: ignore[arg-type]
    assert [s for s in range(1, 10) if _counted(config, Position(s, 100 * s, 0.0))] == saved_at


def test_a_stop_takes_the_longest_step_and_the_longest_save() -> None:
    lead = LeadTime()
    for step, save in ((1.0, 4.0), (3.0, 2.0)):
        lead.note_step(step)
        lead.note_save(save)
    assert lead.seconds == 7.0


@pytest.mark.parametrize("error", [OSError(28, "No space"), RuntimeError("PytorchStreamWriter")])
def test_a_full_disk_is_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(9, 9, 4096))
    named = pytest.raises(CheckpointError, match=r"No space left on device .*run the same")
    with named, need_of_room(tmp_path):
        raise error


def test_other_failures_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-1.partial").mkdir()
    (tmp_path / "step-1.partial" / "state").write_bytes(bytes(3 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(9, 9, 4 << 20))
    with pytest.raises(RuntimeError, match="connection closed by peer"), need_of_room(tmp_path):
        raise RuntimeError("connection closed by peer")
