"""Files of training state: written in one pass with their checksum, read in any pieces.

A file is in the safetensors format; its tensors are named ``kind/parameter@start``. What a rank
reads need not be what any rank wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpcscale.errors import CheckpointError
from hpcscale.train.state import KINDS, Shard

_DTYPES = {"torch.float32": "F32", "torch.uint8": "U8"}
_CHUNK = 1 << 24


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def key_of(kind: str, name: str, start: int) -> str:
    return f"{kind}/{name}@{start}"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write contiguous CPU tensors, float32 or uint8, and fsync; the file's SHA-256.

    The bytes go out chunk by chunk, hashed on their way, and the interpreter is free meanwhile:
    the safetensors package would copy them all and hold it.
    """
    digest = hashlib.sha256()
    with open(path, "wb") as handle:
        for piece in _pieces(tensors):
            digest.update(piece)
            handle.write(piece)
        handle.flush()
        os.fsync(handle.fileno())
    return digest.hexdigest()


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    header, end = {}, 0
    for key, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            values = memoryview(tensor.numpy().data).cast("B")
            for at in range(0, len(values), _CHUNK):
                yield values[at : at + _CHUNK]


class SavedState:
    """The files of one checkpoint, memory-mapped. A context manager."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Raises CheckpointError for a file that is missing or not whole."""
        self.folder = folder
        self._stack = ExitStack()
        #: Of kind/parameter: where its stretches start and end, and which file holds them.
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
        """Write the saved values to the views of ``shards``. Raises as ``read_into``."""
        for shard in shards:
            for kind in KINDS:
                self.read_into(kind, shard.name, shard.start, getattr(shard, kind))

    def read_into(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the flat ``out`` with the elements ``start`` and on of parameter ``name``.

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
        """A tensor that is no part of a parameter; None where the file lacks it."""
        opened = self._files[file]
        return opened.get_tensor(key) if key in opened.keys() else None  # noqa: SIM118

    def __enter__(self) -> SavedState:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
