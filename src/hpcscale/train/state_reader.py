"""Reading the files of training state, in any pieces: a rank need not read what a rank wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpcscale.errors import CheckpointError
from hpcscale.train.state import KINDS, Shard
from hpcscale.train.state_writer import key_of


class StateReader:
    """The files of one checkpoint, memory-mapped. A context manager."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Raises CheckpointError for a file that is missing or not whole."""
        self.folder = folder
        self._stack = ExitStack()
        #: By kind/parameter: start and end of each stretch of it, and the file that holds it.
        self._places: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)
        self._files: dict[str, Any] = {}
        for name in names:
            try:
                file: Any = self._stack.enter_context(safe_open(folder / name, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{folder / name} cannot be read ({error}); delete {folder} to go on from "
                    "the checkpoint before it"
                ) from error
            self._files[name] = file
            for key in file.keys():  # noqa: SIM118 -- a safe_open is no dict
                which, at, start = key.rpartition("@")
                if at:
                    size = file.get_slice(key).get_shape()[0]
                    self._places[which].append((int(start), int(start) + size, file))
        for places in self._places.values():
            places.sort(key=lambda place: place[0])

    def fill(self, shards: Iterable[Shard]) -> None:
        """Copy the saved values into ``shards``. Raises as ``read_into``."""
        for shard in shards:
            for kind in KINDS:
                self.read_into(kind, shard.name, shard.start, getattr(shard, kind))

    def read_into(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the flat ``out`` with elements of parameter ``name``, from ``start`` on.

        Raises CheckpointError where an element is missing.
        """
        filled, end = start, start + out.numel()
        for begin, stop, file in self._places.get(f"{kind}/{name}", ()):
            if begin <= filled < min(stop, end):
                until = min(stop, end)
                part = file.get_slice(key_of(kind, name, begin))[filled - begin : until - begin]
                out[filled - start : until - start].copy_(part)
                filled = until
        if filled < end:
            raise CheckpointError(
                f"{self.folder} holds no {kind} of {name} from element {filled} to {end}; it is "
                "of another model, or incomplete: delete it to go on from the checkpoint before it"
            )

    def size(self, kind: str, name: str) -> int:
        """Elements of parameter ``name`` that the files hold."""
        return sum(stop - begin for begin, stop, _ in self._places.get(f"{kind}/{name}", ()))

    def tensor(self, file: str, key: str) -> Tensor | None:
        """A tensor that is not of a parameter; None where the file lacks it."""
        opened = self._files[file]
        return opened.get_tensor(key) if key in opened.keys() else None  # noqa: SIM118

    def __enter__(self) -> StateReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
