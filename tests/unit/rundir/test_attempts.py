"""Lines of attempts, whoever writes them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from hpcscale.rundir.attempts import (
    killed_jobs,
    newest_checkpoint,
    note_killed,
    process_birth,
    read_attempts,
    record_end,
    record_start,
)


def start(folder: Path, job: str | None = None, from_step: int | None = None) -> None:
    record_start(folder, job=job, world_size=2, from_step=from_step)


def test_an_attempt_has_one_line(tmp_path: Path) -> None:
    start(tmp_path, "5_3", from_step=0)
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    record_end(tmp_path, "done", 1, 2.5)
    record_end(tmp_path, "failed", None, None)
    (line,) = read_attempts(tmp_path)
    kept = ("outcome", "job", "world_size", "from_step", "step", "lead_seconds")
    assert [line[name] for name in kept] == ["done", "5_3", 2, 1, 2, 2.5]
    assert not (tmp_path / "running.json").exists()


def test_what_trains_nothing_has_no_steps(tmp_path: Path) -> None:
    start(tmp_path)
    record_end(tmp_path, "done", None, None)
    assert "step" not in read_attempts(tmp_path)[0]


def test_a_killed_attempt_lasted_until_its_last_sign_of_life(tmp_path: Path) -> None:
    start(tmp_path, "7", from_step=0)
    began = json.loads((tmp_path / "running.json").read_text())["started"]
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    os.utime(tmp_path / "metrics.jsonl", (began + 60, began + 60))
    assert killed_jobs(tmp_path) == {"7"}, "it has not ended"
    note_killed(tmp_path)
    (line,) = read_attempts(tmp_path)
    assert (line["outcome"], line["step"]) == ("killed", 1)
    assert line["seconds"] == pytest.approx(60)
    note_killed(tmp_path)
    assert len(read_attempts(tmp_path)) == 1


def test_jobs_are_counted_by_their_arrays(tmp_path: Path) -> None:
    for job, outcome in (("5_3", "killed"), ("5_4", "killed"), ("6", "done"), (None, "killed")):
        start(tmp_path, job)
        record_end(tmp_path, outcome, None, None)
    assert killed_jobs(tmp_path) == {"5"}


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    assert read_attempts(tmp_path) == []
    (tmp_path / "attempts.jsonl").write_text('{"outcome": "done"}\n{"outcome": "pre')
    assert read_attempts(tmp_path) == [{"outcome": "done"}]


def test_a_torn_record_of_a_running_attempt_gives_no_line(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text('{"host": "a", "pi')
    note_killed(tmp_path)
    assert read_attempts(tmp_path) == []
    assert not (tmp_path / "running.json").exists()


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == 0
    for name in ("step-00000004", "step-00000016", "step-00000020.partial"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == 16


def test_a_process_is_known_by_its_birth_while_it_lives() -> None:
    assert process_birth(os.getpid()) == process_birth(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as process:
        assert process_birth(process.pid) not in (None, process_birth(os.getpid()))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_birth(process.pid) is None, "a zombie"
