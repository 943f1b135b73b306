"""Write a token store: arrays that grow on disk, then the manifest with their checksums."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import sha256_file, write_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
#: File name of each array -> the types it may have.
ARRAYS: dict[str, tuple[type[np.generic], ...]] = {
    "tokens.npy": (np.uint16, np.uint32),
    "offsets.npy": (np.int64,),
    "ids.npy": (np.uint64,),
    "domains.npy": (np.uint16,),
    "bytes.npy": (np.uint32,),
}


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest type that holds every token of a vocabulary of ``vocab_size``."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class GrowingArray:
    """A one-dimensional ``.npy`` file that is appended to and never held in memory."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 -- close() ends it
        self._dtype = dtype
        self.size = 0
        self._write_header()
        self._begin = self._file.tell()

    def append(self, values: npt.NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())
        self.size += len(values)

    def close(self) -> None:
        # numpy pads the header so that the length of the first axis can grow in place.
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._begin
        self._file.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.size,),
            },
        )


class StoreWriter:
    """Appends documents to a store in ``directory``, which must exist; about 22 bytes of memory
    a document."""

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self._directory = directory
        self._tokens = GrowingArray(directory / "tokens.npy", token_dtype(vocab_size))
        self._vocab_size = vocab_size
        self._offsets = array("q", [0])
        self._ids = array("Q")
        self._bytes = array("I")
        self._domains = array("H")
        self._codes: dict[str, int] = {}

    @property
    def n_tokens(self) -> int:
        return self._tokens.size

    @property
    def n_documents(self) -> int:
        return len(self._ids)

    def append(self, identity: int, domain: str, n_bytes: int, tokens: npt.NDArray[Any]) -> None:
        """Add one document; ``tokens`` include its end-of-text, ``n_bytes`` counts UTF-8."""
        self._tokens.append(tokens)
        self._offsets.append(self._tokens.size)
        self._ids.append(identity)
        self._bytes.append(n_bytes)
        self._domains.append(self._codes.setdefault(domain, len(self._codes)))

    def finish(self, role: str, eot_id: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the other arrays and the manifest, and return the manifest.

        ``facts`` are further JSON-ready entries: the tokenizer, the source, the read report.
        """
        self._tokens.close()
        names = sorted(self._codes)
        recode = np.zeros(max(1, len(names)), dtype=np.uint16)
        for name, code in self._codes.items():
            recode[code] = names.index(name)
        domains = recode[np.array(self._domains, dtype=np.uint16)]
        offsets = np.array(self._offsets, dtype=np.int64)
        sizes = np.array(self._bytes, dtype=np.uint32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "offsets.npy": offsets,
            "ids.npy": np.array(self._ids, dtype=np.uint64),
            "domains.npy": domains,
            "bytes.npy": sizes,
        }
        for file, values in arrays.items():
            np.save(self._directory / file, values, allow_pickle=False)
        manifest = {
            "format_version": FORMAT_VERSION,
            "role": role,
            "vocab_size": self._vocab_size,
            "eot_id": eot_id,
            "domain_names": names,
            "counts": _counts(names, domains, np.diff(offsets), sizes),
            **facts,
            "sha256": {file: sha256_file(self._directory / file) for file in ARRAYS},
        }
        write_json(self._directory / MANIFEST, manifest)
        return manifest


def _counts(
    names: list[str],
    domains: npt.NDArray[np.uint16],
    lengths: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.uint32],
) -> dict[str, Any]:
    """Documents, tokens and UTF-8 bytes, in all and per domain."""

    def count(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "documents": int(mask.sum()),
            "tokens": int(lengths[mask].sum()),
            "bytes": int(sizes[mask].sum(dtype=np.int64)),
        }

    total = count(np.ones(len(domains), dtype=np.bool_))
    return {**total, "domains": {name: count(domains == code) for code, name in enumerate(names)}}
