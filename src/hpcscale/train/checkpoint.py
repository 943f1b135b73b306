"""Training state on disk: whole tags only, verified when read, the newest good one used.

checkpoints/step-00001000/  the engine's files, manifest.json with their SHA-256
checkpoints/latest          the newest tag, written last
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcscale.atomic import fsync_directory, read_json, sha256_file, write_json, write_text
from hpcscale.errors import CheckpointError, HpcscaleError
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, targets seen, seconds spent in all its attempts."""

    step: int
    tokens: int
    seconds: float


def tag_of(step: int) -> str:
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; ``key`` is the task's, and no other's state is taken."""

    folder: Path
    key: str
    keep: int
    ranks: Ranks

    def save(self, engine: Engine, position: Position) -> None:
        """Called by all ranks. Interrupted at any point, the earlier tags remain."""
        final = self.folder / tag_of(position.step)
        partial = self.folder / (final.name + _PARTIAL)
        if self.ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.ranks.barrier()
        engine.save(partial)
        self.ranks.barrier()
        if self.ranks.rank == 0:
            self._seal(partial, final, position)
        self.ranks.barrier()

    def _seal(self, partial: Path, final: Path, position: Position) -> None:
        files = {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
            files[str(path.relative_to(partial))] = sha256_file(path)
        record = {
            "key": self.key,
            "step": position.step,
            "tokens": position.tokens,
            "seconds": position.seconds,
            "world_size": self.ranks.world_size,
            "files": files,
        }
        write_json(partial / _MANIFEST, record)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        fsync_directory(self.folder)
        write_text(self.folder / "latest", final.name + "\n")
        for old in self.tags()[: -self.keep]:
            shutil.rmtree(self.folder / old)

    def tags(self) -> list[str]:
        """Complete tags, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.folder.iterdir()
            if entry.name.startswith("step-") and not entry.name.endswith(_PARTIAL)
        )

    def restore(self, engine: Engine) -> Position | None:
        """Load the newest tag that verifies, on all ranks; None where there is no tag.

        Raises CheckpointError where every tag is broken, or one is of another task.
        """
        problems: list[str] = []
        chosen = 0
        if self.ranks.rank == 0:
            chosen, problems = self._newest_good()
        chosen = int(self.ranks.all_sum([chosen])[0])
        if chosen < 0:
            if problems:
                raise CheckpointError(
                    f"no checkpoint in {self.folder} can be used: {'; '.join(problems)}; delete "
                    "the folder to start over"
                )
            return None
        folder = self.folder / tag_of(chosen)
        record = read_json(folder / _MANIFEST)
        engine.load(folder)
        return Position(chosen, int(record["tokens"]), float(record["seconds"]))

    def _newest_good(self) -> tuple[int, list[str]]:
        problems: list[str] = []
        for tag in reversed(self.tags()):
            problem = self._problem(self.folder / tag)
            if problem is None:
                return int(tag.partition("-")[2]), problems
            problems.append(f"{tag}: {problem}")
        return -1, problems

    def _problem(self, folder: Path) -> str | None:
        try:
            record: dict[str, Any] = read_json(folder / _MANIFEST)
        except HpcscaleError as error:
            return str(error)
        if record["key"] != self.key:
            return f"it belongs to another task ({record['key']}, this is {self.key})"
        for name, digest in record["files"].items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if sha256_file(path) != digest:
                return f"{name} differs from its checksum"
        return None
