"""Training state on disk, saved while the run goes on: whole checkpoints only.

checkpoints/step-00001000/  a tag: one checkpoint
    rank-00000.safetensors  a share of the state from each rank
    manifest.json           the position, and the SHA-256 of those files
checkpoints/latest          the newest tag, written last

A save blocks the run for a copy to host memory. A thread writes the copy. At a later step
boundary, when all ranks have written, rank 0 seals the tag: until then its folder ends in .partial.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcscale.atomic import fsync_directory, write_json, write_text
from hpcscale.config.train import CheckpointConfig
from hpcscale.errors import CheckpointError, OtherRankFailed
from hpcscale.train.agreement import SaveProgress
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.staging import Staging, background, shapes
from hpcscale.train.state_writer import rank_file, write_tensors
from hpcscale.train.tag_files import FORMAT, MANIFEST, is_lasting, tag_of, tags_in
from hpcscale.units import format_bytes


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
    """A checkpoint that is being written.

    final: the folder of the tag. written: the SHA-256 of this rank's file. sealed: set once all
    ranks have written; it does nothing except on rank 0.
    """

    final: Path
    record: dict[str, Any]
    written: Future[str]
    sealed: Future[None] | None = None

    @property
    def partial(self) -> Path:
        return _partial(self.final)

    def ended(self) -> list[Future[Any]]:
        return [f for f in (self.written, self.sealed) if f is not None and f.done()]

    def progress(self) -> SaveProgress:
        failed = any(future.exception() is not None for future in self.ended())
        return SaveProgress(writing=not self.written.done(), failed=failed)


@dataclass
class Checkpoints:
    """Writes the checkpoints of one run to ``folder``. A context manager.

    All ranks call each method together, except ``poll`` and ``close``.
    """

    folder: Path
    origin: Origin
    config: CheckpointConfig
    ranks: Ranks
    #: The longest time that a copy and its writing took, in seconds.
    longest: float = 0.0
    _save: _Save | None = None
    _staging: Staging = field(default_factory=Staging)

    def __post_init__(self) -> None:
        self._thread = background()

    def save(self, engine: Engine, position: Position, lasting: bool = False) -> None:
        """Copy the state and start to write it. Interrupted at any point, earlier tags remain.

        The save before this one is finished first. ``lasting``: the tag stays when later ones
        come. Raises CheckpointError where a rank could not write.
        """
        self.finish()
        began = time.monotonic()
        final = self.folder / tag_of(position.step)
        self._make_partial(final)
        tensors = self._staging.copy(engine, self.ranks.device)
        record = {**self._describe(engine, position), "lasting": lasting}
        path = _partial(final) / rank_file(self.ranks.rank)
        written = self._thread.submit(self._write, path, tensors, began)
        self._save = _Save(final, record, written)

    def poll(self) -> SaveProgress:
        """How far this rank is with the save; ``advance`` takes what all ranks agree on."""
        return SaveProgress() if self._save is None else self._save.progress()

    def advance(self, agreed: SaveProgress) -> None:
        """Start to seal the tag, if all ranks have written and it is not done yet.

        Raises CheckpointError on all ranks where one failed; the tags before it are whole.
        """
        save = self._save
        if save is None:
            return
        if agreed.failed:
            self._save = None
            for future in save.ended():
                future.result()  # raises the error of this rank, if it has one
            raise self._other_rank_failed(save.final)
        if save.sealed is None and not agreed.writing:
            digests = self._gather_digests(save.written.result())
            save.sealed = self._thread.submit(self._seal, save, digests)

    def finish(self) -> None:
        """Wait until the save in progress is whole on disk. Raises as ``advance``."""
        save = self._save
        if save is None:
            return
        if save.sealed is None:
            wait([save.written])
            self.advance(self.poll().agree(self.ranks))
        assert save.sealed is not None, "all ranks have written"
        wait([save.sealed])
        self.advance(self.poll().agree(self.ranks))
        self._save = None

    def close(self) -> None:
        """End this rank's thread; a file that it is writing stays in its .partial folder."""
        self._thread.shutdown(wait=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make_partial(self, final: Path) -> None:
        problem: CheckpointError | None = None
        if self.ranks.rank == 0:
            try:
                with self._naming_a_full_disk(final):
                    shutil.rmtree(_partial(final), ignore_errors=True)
                    _partial(final).mkdir(parents=True)
            except CheckpointError as error:
                problem = error
        if self.ranks.any_true(problem is not None):
            raise problem or self._other_rank_failed(final)

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
            with self._naming_a_full_disk(path):
                digest = write_tensors(path, tensors)
                fsync_directory(path.parent)
        except CheckpointError:
            path.unlink(missing_ok=True)
            raise
        self.longest = max(self.longest, time.monotonic() - began)
        return digest

    @contextmanager
    def _naming_a_full_disk(self, path: Path) -> Iterator[None]:
        """Raises CheckpointError for an OSError, with the room that is left."""
        try:
            yield
        except OSError as error:
            existing = self.folder if self.folder.is_dir() else self.folder.parent
            free = format_bytes(shutil.disk_usage(existing).free)
            raise CheckpointError(
                f"{path} could not be written ({error}); {free} are free in {self.folder}. The "
                "checkpoint before it is whole: make room, or keep fewer (train.checkpoint.keep), "
                "and run again"
            ) from error

    def _other_rank_failed(self, path: Path) -> OtherRankFailed:
        return OtherRankFailed(
            f"another rank could not write its part of {path}, and its message says why; the "
            "checkpoint before it is whole: make room, and run again"
        )

    def _gather_digests(self, digest: str) -> list[str]:
        """The hexadecimal digests of all ranks, by rank."""
        rows = self.ranks.all_gather(np.frombuffer(bytearray.fromhex(digest), np.uint8))
        return [row.tobytes().hex() for row in rows]

    def _seal(self, save: _Save, digests: Sequence[str]) -> None:
        if self.ranks.rank == 0:
            with self._naming_a_full_disk(save.final):
                self._publish(save, digests)

    def _publish(self, save: _Save, digests: Sequence[str]) -> None:
        files = {rank_file(rank): digest for rank, digest in enumerate(digests)}
        data = self.origin.fingerprint(save.record["tokens"])
        write_json(save.partial / MANIFEST, {**save.record, "data": data, "files": files})
        shutil.rmtree(save.final, ignore_errors=True)
        os.replace(save.partial, save.final)
        fsync_directory(self.folder)
        write_text(self.folder / "latest", save.final.name + "\n")
        self._drop_old(save.final.name)

    def _drop_old(self, newest: str) -> None:
        """Keep the last tags up to ``newest`` and those marked lasting. Tags of later steps are
        broken ones, which the run went back behind: they go."""
        tags = tags_in(self.folder)
        kept = [tag for tag in tags if tag <= newest][-self.config.keep :]
        for tag in tags:
            if tag not in kept and (tag > newest or not is_lasting(self.folder / tag)):
                shutil.rmtree(self.folder / tag)


def _partial(final: Path) -> Path:
    return final.with_name(final.name + ".partial")
