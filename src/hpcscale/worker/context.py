"""What a running step sees: its spec, its inputs, its directory, and a way to report progress."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcscale.atomic import DONE, read_done, read_json, temporary_name, verify_done
from hpcscale.errors import TaskError
from hpcscale.train.signals import LeadTime

PROGRESS = "progress.json"
SPEC = "task.json"
_PROGRESS_EVERY = 0.5


class InputMissing(TaskError):
    """An input is not there yet; the task is neither done nor failed."""


@dataclass
class StepResult:
    """File names of the outputs, relative to the task's directory, and facts for its marker.

    scrap: folders that only an unfinished task needs. afterwards: called on rank 0 once the task
    is marked as done.
    """

    outputs: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    scrap: tuple[str, ...] = ()
    afterwards: Callable[[], None] = lambda: None


@dataclass
class Context:
    """One task on one rank.

    from_step, lead: of this attempt at a training; where it went on, and how long a stop takes.
    """

    run_dir: Path
    spec: dict[str, Any]
    stop: Callable[[], bool] = lambda: False
    deferring: Callable[[], AbstractContextManager[None]] = nullcontext
    rank: int = 0
    world_size: int = 1
    from_step: int | None = None
    lead: LeadTime = field(default_factory=LeadTime)
    _reported: float = 0.0

    @property
    def directory(self) -> Path:
        return self.run_dir / str(self.spec["id"])

    @property
    def key(self) -> str:
        return str(self.spec["key"])

    @property
    def decides(self) -> dict[str, Any]:
        return dict(self.spec["decides"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.spec["params"])

    def inputs(self, label: str) -> list[Path]:
        """Directories of the inputs under ``label``, each checked to be done."""
        return [self._ready(entry) for entry in self.spec["inputs"].get(label, [])]

    def verified_inputs(self, label: str) -> list[Path]:
        """As ``inputs``, with every checksum compared; for shards, which cost a read anyway.

        What differs is unmarked, so that the next ``sweep`` makes it again and nothing else.
        Raises TaskError naming the file.
        """
        found = self.inputs(label)
        for directory in found:
            try:
                verify_done(directory)
            except TaskError as error:
                (directory / DONE).unlink(missing_ok=True)
                raise TaskError(
                    f"{error.args[0].partition(';')[0]}; it is no longer counted as done: run the "
                    "same `hpcscale sweep` again, which makes it and what waits for it"
                ) from None
        return found

    def verified_input(self, label: str) -> Path:
        (directory,) = self.verified_inputs(label)
        return directory

    def input(self, label: str) -> Path:
        (directory,) = self.inputs(label)
        return directory

    def _ready(self, entry: dict[str, str]) -> Path:
        directory = self.run_dir / entry["id"]
        if read_done(directory, entry["key"]) is None:
            raise InputMissing(f"{self.spec['name']} waits for {entry['id']}, which is not done")
        return directory

    def progress(self, done: float, total: float | None, unit: str = "", note: str = "") -> None:
        """Report from rank 0, twice a second at most; readers poll the file."""
        now = time.monotonic()
        finished = total is not None and done >= total
        if self.rank or (now - self._reported < _PROGRESS_EVERY and not finished):
            return
        self._reported = now
        path = self.directory / PROGRESS
        temporary = temporary_name(path)
        # Advisory, so not worth an fsync.
        temporary.write_text(
            json.dumps(
                {"done": done, "total": total, "unit": unit, "note": note, "at": time.time()}
            )
        )
        os.replace(temporary, path)


def load_context(run_dir: Path, task_id: str, **values: Any) -> Context:
    """Raises TaskError when the run directory holds no such task."""
    path = run_dir / task_id / SPEC
    if not path.exists():
        raise TaskError(f"{run_dir} has no task {task_id}; `hpcscale status {run_dir}` lists them")
    return Context(run_dir, read_json(path), **values)
