"""Training state on disk: whole tags only, verified when read, the newest good one used.

checkpoints/step-00001000/  rank-00000.safetensors ...: a share of the state from each rank
                            manifest.json: the position, and the SHA-256 of those files
checkpoints/latest          the newest tag, written last

A save blocks the run for a copy to host memory. A thread writes the copy, and at a later step
boundary, when all ranks have written, rank 0 seals the tag: until then it has no name.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpcscale.atomic import fsync_directory, read_json, write_json, write_text
from hpcscale.config.train import CheckpointConfig
from hpcscale.errors import CheckpointError, HpcscaleError, OtherRankFailed
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.staging import RNG, Staging, background, restore_rng, shapes
from hpcscale.train.state import LossScale
from hpcscale.train.state_reader import SavedState, rank_file, write_tensors
from hpcscale.train.tag_files import (
    FORMAT,
    MANIFEST,
    broken_file,
    lasts,
    read_manifest,
    tag_of,
    tags_in,
)
from hpcscale.units import format_bytes

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, targets seen, seconds spent in all its attempts."""

    step: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Origin:
    """What a run is of: its task, its seed, and ``PackedStream.fingerprint`` of its data."""

    key: str
    seed: int = 0
    fingerprint: Callable[[int], str] = lambda tokens: ""


@dataclass
class _Save:
    """One on its way. ``written``: this rank's file and its SHA-256; ``sealed``: on rank 0."""

    final: Path
    record: dict[str, Any]
    written: Future[str]
    sealed: Future[None] | None = None

    @property
    def partial(self) -> Path:
        return self.final.with_name(self.final.name + _PARTIAL)


@dataclass
class Checkpoints:
    """The checkpoints of one run in ``folder``; no other task's state is taken from there.

    All methods but ``report`` and ``close`` are called by all ranks together.
    """

    folder: Path
    origin: Origin
    config: CheckpointConfig
    ranks: Ranks
    #: The longest that a copy and its writing took, in seconds.
    longest: float = 0.0
    _save: _Save | None = None
    _staging: Staging = field(default_factory=Staging)

    def __post_init__(self) -> None:
        self._thread = background()

    def save(self, engine: Engine, position: Position, lasting: bool = False) -> None:
        """Copy the state and start to write it. Interrupted at any point, earlier tags remain.

        The save before it is waited for. ``lasting``: the tag stays when later ones come.
        Raises CheckpointError where a rank could not write that one.
        """
        self.finish()
        began = time.monotonic()
        final = self.folder / tag_of(position.step)
        partial = final.with_name(final.name + _PARTIAL)
        problem: CheckpointError | None = None
        if self.ranks.rank == 0:
            try:
                self._or_full(lambda: _make_anew(partial), final)
            except CheckpointError as error:
                problem = error
        if self.ranks.any_true(problem is not None):
            raise problem or self._other_failed(final)
        tensors = self._staging.copy(engine, self.ranks.device)
        record = {**self._describe(engine, position), "lasting": lasting}
        path = partial / rank_file(self.ranks.rank)
        written = self._thread.submit(self._write, path, tensors, began)
        self._save = _Save(final, record, written)

    def report(self) -> tuple[float, float]:
        """Whether this rank has written its part, and whether it failed: summed over ranks, what
        ``heed`` takes."""
        save = self._save
        if save is None:
            return 0.0, 0.0
        ended = [f for f in (save.written, save.sealed) if f is not None and f.done()]
        failed = any(f.exception() is not None for f in ended)
        return float(save.written.done() and not failed), float(failed)

    def heed(self, written: float, failed: float) -> None:
        """Seal the tag once all ranks have written it, and go on meanwhile.

        Raises CheckpointError on all ranks where one failed; the tags before it are whole.
        """
        save = self._save
        if save is None:
            return
        if failed:
            self._save = None
            for future in (save.written, save.sealed):
                if future is not None and future.done():
                    future.result()  # raises what this rank failed of
            raise self._other_failed(save.final)
        if save.sealed is None and written == self.ranks.world_size:
            digests = self._gather(save.written.result())
            save.sealed = self._thread.submit(self._seal, save, digests)

    def finish(self) -> None:
        """Wait until the save that is on its way is whole on disk. Raises as ``heed``."""
        save = self._save
        while save is not None and save.sealed is None:
            _settle(save.written)
            self.heed(*self.ranks.all_sum(self.report()))
        if save is not None and save.sealed is not None:
            _settle(save.sealed)
            self.heed(*self.ranks.all_sum(self.report()))
            self._save = None

    def close(self) -> None:
        """Let this rank's thread end; what it writes has no name yet, unless it is sealed."""
        self._thread.shutdown(wait=True)

    def _describe(self, engine: Engine, position: Position) -> dict[str, Any]:
        model: Any = engine.module
        return {
            "format": FORMAT,
            "key": self.origin.key,
            "seed": self.origin.seed,
            **asdict(position),
            "world_size": self.ranks.world_size,
            **{k: engine.resolved.get(k) for k in ("engine", "zero", "precision")},
            "updates": engine.updates(),
            "loss_scale": asdict(engine.loss_scale()),
            "model": json.loads(model.config.to_json_string(use_diff=False)),
            "parameters": shapes(engine),
        }

    def _write(self, path: Path, tensors: dict[str, torch.Tensor], began: float) -> str:
        try:
            digest = write_tensors(path, tensors)
            fsync_directory(path.parent)
            self.longest = max(self.longest, time.monotonic() - began)
            return digest
        except OSError as error:
            path.unlink(missing_ok=True)
            raise self._full(path, error) from error

    def _or_full(self, act: Callable[[], None], path: Path) -> None:
        try:
            act()
        except OSError as error:
            raise self._full(path, error) from error

    def _full(self, path: Path, error: OSError) -> CheckpointError:
        there = self.folder if self.folder.is_dir() else self.folder.parent
        free = format_bytes(shutil.disk_usage(there).free)
        return CheckpointError(
            f"{path} could not be written ({error}); {free} are free in {self.folder}. The "
            "checkpoint before it is whole: make room, or keep fewer (train.checkpoint.keep), "
            "and run again"
        )

    def _other_failed(self, path: Path) -> OtherRankFailed:
        return OtherRankFailed(
            f"another rank could not write its part of {path}, and its message says why; the "
            "checkpoint before it is whole: make room, and run again"
        )

    def _gather(self, digest: str) -> list[str]:
        """The digests of all ranks, by rank."""
        table = torch.zeros(self.ranks.world_size, 32, dtype=torch.float64).numpy()
        table[self.ranks.rank] = list(bytes.fromhex(digest))
        return [bytes(int(x) for x in row).hex() for row in self.ranks.all_sum(table)]

    def _seal(self, save: _Save, digests: Sequence[str]) -> None:
        if self.ranks.rank == 0:
            self._or_full(lambda: self._name(save, digests), save.final)

    def _name(self, save: _Save, digests: Sequence[str]) -> None:
        files = {rank_file(rank): digest for rank, digest in enumerate(digests)}
        data = self.origin.fingerprint(save.record["tokens"])
        write_json(save.partial / MANIFEST, {**save.record, "data": data, "files": files})
        shutil.rmtree(save.final, ignore_errors=True)
        os.replace(save.partial, save.final)
        fsync_directory(self.folder)
        write_text(self.folder / "latest", save.final.name + "\n")
        self._drop_old(save.final.name)

    def _drop_old(self, newest: str) -> None:
        """Later tags than the newest are of a history that was left: they were broken."""
        until = [tag for tag in self.tags() if tag <= newest]
        for tag in self.tags():
            folder = self.folder / tag
            if tag in until[-self.config.keep :]:
                continue
            if tag > newest or not lasts(folder):
                shutil.rmtree(folder)

    def tags(self) -> list[str]:
        """Complete tags, oldest first."""
        return tags_in(self.folder)

    def restore(self, engine: Engine) -> Position | None:
        """Load the newest tag that verifies; None where there is no tag.

        Raises CheckpointError where every tag is broken, or one is of another task.
        """
        steps = self._agree([int(tag.partition("-")[2]) for tag in self.tags()])
        problems: list[str] = []
        for step in reversed(steps):
            folder = self.folder / tag_of(step)
            problem = self._problem(folder, self.origin.key)
            if not self.ranks.any_true(problem is not None):
                self._say(problems, folder)
                return self._load(engine, folder)
            problems.append(f"{folder.name}: {problem or 'another rank found it broken'}")
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used: {'; '.join(problems)}; delete "
                "the folder to start over"
            )
        return None

    def restore_from(self, engine: Engine, folder: Path) -> Position:
        """Load the tag ``folder`` of another task, whose run up to there must be this one's too.

        Raises CheckpointError where it is broken, or of other data or another seed.
        """
        problem = self._problem(folder, None)
        if self.ranks.any_true(problem is not None):
            raise CheckpointError(
                f"{folder} cannot be gone on from: {problem or 'another rank found it broken'}; "
                "delete it and run the task that wrote it again"
            )
        return self._load(engine, folder)

    def _agree(self, steps: list[int]) -> list[int]:
        """Rank 0's list, on all ranks."""
        mine = self.ranks.rank == 0
        count = int(self.ranks.all_sum([len(steps) if mine else 0])[0])
        values = self.ranks.all_sum(steps if mine else [0] * count)
        return [int(value) for value in values]

    def _say(self, problems: list[str], folder: Path) -> None:
        if problems and self.ranks.rank == 0:
            text = f"hpcscale: going on from {folder}, since {'; '.join(problems)}"
            print(text, file=sys.stderr, flush=True)

    def _load(self, engine: Engine, folder: Path) -> Position:
        record = read_json(folder / MANIFEST)
        with SavedState(folder, record["files"]) as saved:
            engine.load(saved, int(record["updates"]), LossScale(**record["loss_scale"]))
            if record["world_size"] == self.ranks.world_size:
                values = [saved.tensor(rank_file(self.ranks.rank), name) for name in RNG]
                restore_rng(values, self.ranks.device)
        return Position(int(record["step"]), int(record["tokens"]), float(record["seconds"]))

    def _problem(self, folder: Path, key: str | None) -> str | None:
        """What is wrong with a tag; each rank looks at its part of the files."""
        try:
            record = read_manifest(folder)
        except HpcscaleError as error:
            return str(error)
        if key is not None and record["key"] != key:
            return f"it belongs to another task ({record['key']}, this is {key})"
        if record["seed"] != self.origin.seed:
            return f"its run has the seed {record['seed']}, this one {self.origin.seed}"
        if record["data"] != self.origin.fingerprint(record["tokens"]):
            return f"its {record['tokens']} tokens are not the first of this run's data"
        names = sorted(record["files"])[self.ranks.rank :: self.ranks.world_size]
        return broken_file(folder, record, names)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _settle(future: Future[Any]) -> None:
    """Wait for the end, good or bad."""
    future.exception()
