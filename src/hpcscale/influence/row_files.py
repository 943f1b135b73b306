"""Rows of numbers, one an example, that the ranks of a task write block by block and others map.

Each rank writes ``<part>-00000.npy`` for every part, ``units-00000.npy`` with the ordinals of its
examples, and ``rows-00000.json``, which counts the rows on disk, with a checksum for each block: a
task that was killed continues behind the last block that is intact. Ranks hold contiguous ranges,
so that their files one after the other are the examples in order.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import read_json, write_json
from hpcscale.errors import DataError, TaskError
from hpcscale.types import Ints

_REMEDY = "run the same command again"
#: The name on disk of the part with the examples' ordinals.
_UNITS = "units"


@dataclass(frozen=True)
class Part:
    """dtype and columns of one array; columns None: a vector."""

    dtype: type[np.generic]
    columns: int | None = None

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self.columns is None else (rows, self.columns)


def array_name(part: str, rank: int) -> str:
    return f"{part}-{rank:05d}.npy"


def manifest_name(rank: int) -> str:
    return f"rows-{rank:05d}.json"


def output_names(parts: Mapping[str, Part], world_size: int) -> list[str]:
    """The files of all ranks."""
    return [
        name
        for rank in range(world_size)
        for name in (*(array_name(part, rank) for part in (*parts, _UNITS)), manifest_name(rank))
    ]


class RowWriter:
    """Writes one rank's rows, or goes on with them."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        examples: Ints,
        parts: Mapping[str, Part],
        facts: Mapping[str, Any],
    ) -> None:
        """examples: int64 [n], the ordinals that the rows are of.

        ``facts`` (JSON) say what decides the rows; rows of other facts are started over.
        """
        self.folder, self.rank, self.parts = folder, rank, dict(parts)
        self.examples, self.done = examples, 0
        self.facts = {**facts, "units": len(examples)}
        folder.mkdir(parents=True, exist_ok=True)
        self._blocks: list[list[int]] = []
        kept, count = self._reopened(), len(examples)
        self.arrays = kept or {
            name: _open(folder / array_name(name, rank), "w+", part.dtype, part.shape(count))
            for name, part in self.parts.items()
        }
        self.done = self._intact() if kept else 0
        self._blocks = [block for block in self._blocks if block[0] <= self.done]
        if not kept:
            np.save(folder / array_name(_UNITS, rank), examples)
            self.commit(0)

    def _reopened(self) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays of an earlier attempt at the same rows; None where there are none."""
        folder, rank, count = self.folder, self.rank, len(self.examples)
        try:
            found = read_json(folder / manifest_name(rank))
            if {name: found.get(name) for name in self.facts} != self.facts:
                return None
            examples = np.load(folder / array_name(_UNITS, rank), allow_pickle=False)
            if not np.array_equal(examples, self.examples):
                return None
            arrays = {
                name: _open(folder / array_name(name, rank), "r+", part.dtype, part.shape(count))
                for name, part in self.parts.items()
            }
        except (TaskError, OSError, ValueError, EOFError):
            return None
        if any(
            a.dtype != p.dtype for a, p in zip(arrays.values(), self.parts.values(), strict=True)
        ):
            return None
        self._blocks = found["blocks"]
        return arrays

    def _intact(self) -> int:
        """Rows up to the first block whose bytes are not those that were committed."""
        done = 0
        for last, checksum in self._blocks:
            if self._checksum(done, last) != checksum:
                break
            done = last
        return done

    def _checksum(self, first: int, last: int) -> int:
        """CRC-32 of rows ``first`` to ``last`` - 1 of every part."""
        value = 0
        for array in self.arrays.values():
            value = zlib.crc32(np.ascontiguousarray(array[first:last]).data, value)
        return value

    def write(self, first: int, **values: npt.NDArray[Any]) -> None:
        """Rows ``first`` and on of every part."""
        for name, rows in values.items():
            self.arrays[name][first : first + len(rows)] = rows

    def commit(self, rows: int) -> None:
        """Make the first ``rows`` rows durable, and say so."""
        for name, array in self.arrays.items():
            if isinstance(array, np.memmap):
                array.flush()
            _fsync(self.folder / array_name(name, self.rank))
        _fsync(self.folder / array_name(_UNITS, self.rank))
        if rows > self.done or not self._blocks:
            self._blocks.append([rows, self._checksum(self.done, rows)])
        facts = self.facts | {"rows": rows, "blocks": self._blocks}
        write_json(self.folder / manifest_name(self.rank), facts)
        self.done = rows


def drop_other_ranks(folder: Path, world_size: int) -> None:
    """Files of an attempt of more ranks would be read as part of this one."""
    for path in folder.glob("*-[0-9][0-9][0-9][0-9][0-9].*"):
        if path.suffix in (".npy", ".json") and int(path.stem[-5:]) >= world_size:
            path.unlink()


class Rows:
    """Read access to what a task's ranks wrote."""

    def __init__(self, folder: Path, parts: tuple[str, ...]) -> None:
        """Raises DataError naming the file that is missing, damaged or not finished."""
        self.folder = folder
        manifests = sorted(folder.glob("rows-[0-9][0-9][0-9][0-9][0-9].json"))
        if not manifests:
            raise DataError(f"{folder} holds no rows (no rows-*.json); {_REMEDY}")
        ranks = [read_json(path) for path in manifests]
        self.facts: dict[str, Any] = ranks[0]
        self._maps: dict[str, list[npt.NDArray[Any]]] = {part: [] for part in (*parts, _UNITS)}
        for rank, facts in enumerate(ranks):
            self._take(rank, facts)
        self.examples: Ints = self.whole(_UNITS)

    def _take(self, rank: int, facts: dict[str, Any]) -> None:
        if facts["rows"] != facts["units"]:
            raise DataError(
                f"{self.folder / manifest_name(rank)} has {facts['rows']} of {facts['units']} "
                f"rows; {_REMEDY} to go on with it"
            )
        for part, maps in self._maps.items():
            path = self.folder / array_name(part, rank)
            array = map_array(path, f"delete {self.folder} and {_REMEDY}")
            if len(array) != facts["units"]:
                raise DataError(
                    f"{path} has {len(array)} rows, its manifest says {facts['units']}; delete "
                    f"{self.folder} and {_REMEDY}"
                )
            maps.append(array)

    def __len__(self) -> int:
        return len(self.examples)

    def whole(self, part: str) -> npt.NDArray[Any]:
        """All rows of a part, in memory."""
        return np.concatenate(self._maps[part])

    def columns(self, part: str) -> int:
        return int(self._maps[part][0].shape[1])

    def slice(self, part: str, first: int, last: int) -> npt.NDArray[Any]:
        """Rows ``first`` to ``last`` - 1 of a part, in memory; fewer at the end."""
        found, begin = [], 0
        for array in self._maps[part]:
            low, high = max(first - begin, 0), min(last - begin, len(array))
            if low < high:
                found.append(array[low:high])
            begin += len(array)
        return np.concatenate(found) if found else self._maps[part][0][:0]

    def blocks(self, part: str, rows: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(first row, at most ``rows`` rows), mapped and in order."""
        first = 0
        for array in self._maps[part]:
            for begin in range(0, len(array), rows):
                block = array[begin : begin + rows]
                yield first, block
                first += len(block)


def _open(
    path: Path, mode: Any, dtype: type[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """A memory map to write to; what is empty cannot be mapped."""
    if 0 in shape:
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode, dtype, shape)
    return array


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def map_array(path: Path, remedy: str) -> npt.NDArray[Any]:
    """An ``.npy`` file as a memory map. Raises DataError with the ``remedy`` where it is none."""
    modes: tuple[Literal["r"], None] = ("r", None)  # what is empty cannot be mapped
    for mode in modes:
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
            return array
        except FileNotFoundError:
            raise DataError(f"{path} is missing; {remedy}") from None
        except (ValueError, OSError, EOFError) as error:
            fault = error
    raise DataError(f"{path} is damaged ({fault}); {remedy}")
