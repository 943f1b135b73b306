"""When state is saved, how long a stop takes, and what a full disk is called."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.train import CheckpointConfig
from hpcscale.errors import CheckpointError, Preempted
from hpcscale.train.signals import LeadTime
from hpcscale.train.tag_files import tags_in
from training import make_store, read, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saving")
    make_store(folder / "store")
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "saved_at"),
    [
        ({"every_steps": 3}, [3, 6, 9]),
        ({"every_tokens": 250}, [3, 5, 8]),
        ({"every_tokens": 100}, list(range(1, 10))),
        ({"every_tokens": 50}, list(range(1, 10))),
        ({"every_steps": 4, "every_tokens": "1k"}, [4, 8]),
        ({}, []),
        ({"keep_every_steps": 4}, [4, 8]),
        ({"keep_at_tokens": [250, "0.7k"]}, [3, 7]),
    ],
)
def test_state_is_saved_by_steps_or_tokens(checkpoint: dict[str, Any], saved_at: list[int]) -> None:
    """Of 9 steps of 100 tokens: after each that completes a multiple."""
    config = CheckpointConfig(**checkpoint)
    assert [s for s in range(1, 10) if config.due(s, 100 * s, 100 * s - 100)] == saved_at


def test_a_stop_takes_the_longest_step_and_the_longest_save() -> None:
    lead = LeadTime()
    for step, save in ((1.0, 4.0), (3.0, 2.0)):
        lead.note_step(step)
        lead.note_save(save)
    assert lead.seconds == 7.0


def test_what_is_kept(folder: Path) -> None:
    """20 steps of 128 tokens, the last one short."""
    train_here(folder / "kept", every_steps=3, keep=2, keep_every=8, keep_at=600)
    steps = [int(tag[5:]) for tag in tags_in(folder / "kept" / "checkpoints")]
    assert steps == [5, 8, 16, 18]
    assert (folder / "kept" / "checkpoints" / "latest").read_text() == "step-00000018\n"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writes beyond it fail, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_ends_the_run_and_the_tag_before_it_stays(folder: Path) -> None:
    whole = [line["loss"] for line in train_here(folder / "whole")]
    out = folder / "full"
    with pytest.raises(Preempted):
        train_here(out, stop_at=3)
    with (
        files_of_at_most(100_000),
        pytest.raises(
            CheckpointError, match=r"rank-00000.safetensors could not be written .* free in .*room"
        ),
    ):
        train_here(out, every_steps=5)
    assert tags_in(out / "checkpoints") == ["step-00000003"]
    assert not list(out.rglob("rank-*.safetensors"))[1:], "what was begun takes no room"
    assert [line["loss"] for line in train_here(out, every_steps=5)] == whole


def test_steps_go_on_while_a_checkpoint_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag has no name before its files are whole, and the next save waits for it."""
    import threading

    from hpcscale.train import checkpoint

    out = folder / "meanwhile"
    steps_done, seen = threading.Event(), []
    write = checkpoint.write_tensors

    def slow(path: Path, tensors: Any) -> str:
        assert steps_done.wait(60)
        return write(path, tensors)

    class Watch:
        wants_positions = False

        def started(self, *_: Any) -> None: ...

        def before_pass(self, *_: Any, **__: Any) -> None: ...

        def before_save(self, position: Any) -> None: ...

        def after_step(self, position: Any, *_: Any) -> None:
            seen.append((position.step, tags_in(out / "checkpoints")))
            if position.step == 9:
                steps_done.set()

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    train_here(out, [Watch()], every_steps=5)
    assert all(tags == [] for step, tags in seen if step <= 9)
    assert tags_in(out / "checkpoints") == ["step-00000010", "step-00000015"]


def test_what_is_saved_is_the_state_at_the_save(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written late, when steps have changed the engine's own tensors."""
    import time

    from hpcscale.train import checkpoint

    write = checkpoint.write_tensors

    def late(path: Path, tensors: Any) -> str:
        time.sleep(0.2)
        return write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", late)
    whole = [line["loss"] for line in train_here(folder / "again")]
    out = folder / "late"
    train_here(out, every_steps=7)
    for tag in tags_in(out / "checkpoints")[1:]:
        (out / "checkpoints" / tag / "manifest.json").unlink()
    assert [line["loss"] for line in train_here(out)] == whole


def test_another_seed_or_order_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "order"
    with pytest.raises(Preempted):
        train_here(out, stop_at=3)
    with pytest.raises(CheckpointError, match="seed 0, this one 1"):
        train_here(out, seed=1)
    with pytest.raises(CheckpointError, match="are not the first of this run's data"):
        train_here(out, packing="isolate")
    assert len(read(out)["lines"]) == 3


def test_the_time_between_saves_is_no_part_of_a_save(folder: Path) -> None:
    """What is written while steps go on is not seen to end before a later save."""
    import time

    from hpcscale.train.watch import Silent

    class Slow(Silent):
        def after_step(self, position: Any, *_: Any) -> None:
            time.sleep(0.1)

    lead = LeadTime()
    train_here(folder / "between", [Slow()], every_steps=9, lead=lead)
    assert 0 < lead.save < 0.9
