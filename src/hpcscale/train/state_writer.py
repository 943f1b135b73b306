"""Writing the files of training state: one a rank, in one pass with its checksum.

A file is in the safetensors format; its tensors are named ``kind/parameter@start``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

_DTYPES = {"torch.float32": "F32", "torch.uint8": "U8"}
_CHUNK = 1 << 24


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def key_of(kind: str, name: str, start: int) -> str:
    """The name in a file of a stretch of ``kind`` of parameter ``name``."""
    return f"{kind}/{name}@{start}"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write contiguous CPU tensors, float32 or uint8, and fsync; returns the file's SHA-256.

    Bytes are hashed and written chunk by chunk, which leaves the interpreter to other threads; the
    safetensors package would copy them all first and hold its lock.
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
