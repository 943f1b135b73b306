"""What a running step is given: spec, inputs, directory, and a way to report progress."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from hpcscale.atomic import read_done, temporary_name, verify_done
from hpcscale.errors import TaskError
from hpcscale.plan.kinds import Kind, kind_of
from hpcscale.rundir.layout import DONE, PROGRESS, TASK
from hpcscale.rundir.spec import Spec
from hpcscale.rundir.task_file import Input, TaskFile, read_task_file
from hpcscale.train.signals import LeadTime

S = TypeVar("S", bound=Spec)
_PROGRESS_EVERY = 0.5


class InputMissing(TaskError):
    """An input is not done yet; the task itself is neither done nor failed."""


@dataclass
class StepResult:
    """File names of the outputs, relative to the task's directory, and facts for its marker.

    temporary: folders that only an unfinished task needs, deleted once it is done. on_done: called
    on rank 0 once the task is marked as done.
    """

    outputs: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    temporary: tuple[str, ...] = ()
    on_done: Callable[[], None] = lambda: None


@dataclass
class Context(Generic[S]):
    """One task on one rank.

    from_step, lead: of this attempt at a training; the step that it continues from, and how long a
    stop takes.
    """

    run_dir: Path
    file: TaskFile
    kind: Kind[S]
    spec: S
    stop: Callable[[], bool] = lambda: False
    deferring: Callable[[], AbstractContextManager[None]] = nullcontext
    rank: int = 0
    world_size: int = 1
    from_step: int | None = None
    lead: LeadTime = field(default_factory=LeadTime)
    _reported: float = 0.0

    @property
    def directory(self) -> Path:
        return self.run_dir / self.file.id

    @property
    def key(self) -> str:
        return self.file.key

    def inputs(self, label: str) -> list[Path]:
        """Directories of the inputs under ``label``, each checked to be done."""
        return [self._ready(entry) for entry in self.file.inputs.get(label, ())]

    def verified_inputs(self, label: str) -> list[Path]:
        """As ``inputs``, with every checksum compared; for shards, which are read whole anyway.

        An input that differs loses its marker, so that the next ``sweep`` makes it again. Raises
        TaskError that names the file.
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

    def _ready(self, entry: Input) -> Path:
        directory = self.run_dir / entry.id
        if read_done(directory, entry.key) is None:
            raise InputMissing(f"{self.file.name} waits for {entry.id}, which is not done")
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


AnyContext = Context[Any]


def load_context(run_dir: Path, task_id: str, **values: Any) -> AnyContext:
    """Raises TaskError where the run directory holds no such task, or its file is of another
    version of hpcscale."""
    file = read_task_file(run_dir, task_id)
    kind = kind_of(file.kind)
    spec = file.spec(kind.spec)
    written = kind.decides(spec)
    if written != file.decides:
        other = {k for k in written | file.decides if written.get(k) != file.decides.get(k)}
        raise TaskError(
            f"{run_dir / task_id / TASK}: {', '.join(sorted(other))} is not what this version of "
            "hpcscale reads; run the same `hpcscale sweep` again, with one version on all machines"
        )
    return Context(run_dir, file, kind, spec, **values)
