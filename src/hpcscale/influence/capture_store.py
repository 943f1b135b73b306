"""Rows that grow while a run trains, and are cut back where it goes on from a checkpoint.

rank-00000/gradients.npy   fp16, fp32 or the bits of bf16, [n, dimension]: rows of norm 1
rank-00000/norms.npy       float32 [n], the norms that were scaled away
rank-00000/ids.npy         uint64 [n], the document, or the number of the packed row
rank-00000/rows.npy        int64 [n], the packed row that the piece lies in
rank-00000/steps.npy       int32 [n], the optimizer step that it was part of, counted from 1
rank-00000/rates.npy       float32 [n], that step's learning rate
rank-00000/intervals.npy   int16 [n], the interval that the step lies in
rank-00000/shares.npy      float32 [n], the piece's tokens over those of its document (or row)
manifest.json              written last: rows of each rank, projection, intervals

The files are ordinary ``.npy`` arrays once sealed; until then their headers lag behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import read_json, write_json
from hpcscale.errors import CheckpointError, DataError
from hpcscale.influence.row_files import map_array

Array = npt.NDArray[Any]
MANIFEST = "manifest.json"
GRADIENTS = "gradients"
#: The columns of one number a row.
COLUMNS: dict[str, type[np.generic]] = {
    "norms": np.float32,
    "ids": np.uint64,
    "rows": np.int64,
    "steps": np.int32,
    "rates": np.float32,
    "intervals": np.int16,
    "shares": np.float32,
}
_FORMAT = 1
_REMEDY = "delete the proxy run's task and run the same command again"


class _Column:
    """A ``.npy`` file whose first axis grows; what an earlier attempt left in it is kept."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._file: IO[bytes] = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        self._write_header(0)
        self._begin = self._file.tell()
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        # The bytes that are there count; the header was written before the last of them.
        self._file.seek(0, os.SEEK_END)
        self.rows = (self._file.tell() - self._begin) // self._row_bytes

    def append(self, values: Array) -> None:
        self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.rows += len(values)

    def read(self, rows: int) -> Array:
        """The first ``rows`` rows, in memory."""
        self._file.seek(self._begin)
        raw = self._file.read(rows * self._row_bytes)
        return np.frombuffer(raw, self.dtype).reshape(rows, *self.shape)

    def cut(self, rows: int) -> None:
        """Keep the first ``rows`` rows, and append behind them."""
        self._file.truncate(self._begin + rows * self._row_bytes)
        self._file.seek(0, os.SEEK_END)
        self.rows = rows

    def commit(self) -> None:
        """Make all rows durable."""
        self._write_header(self.rows)
        self._file.seek(0, os.SEEK_END)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write_header(self, rows: int) -> None:
        # numpy pads the header so that the length of the first axis can grow in place.
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self.dtype)
        shape = (rows, *self.shape)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class CaptureWriter:
    """The rows of one rank."""

    def __init__(self, folder: Path, dimension: int, stored: type[np.generic]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.columns = {
            name: _Column(folder / f"{name}.npy", dtype, ()) for name, dtype in COLUMNS.items()
        }
        self.columns[GRADIENTS] = _Column(folder / f"{GRADIENTS}.npy", stored, (dimension,))

    @property
    def rows(self) -> int:
        return self.columns["steps"].rows

    def cut_behind(self, step: int) -> int:
        """Drop the rows of steps after ``step``; how many rows of ``step`` itself there are."""
        whole = min(column.rows for column in self.columns.values())
        steps = self.columns["steps"].read(whole)
        first, last = np.searchsorted(steps, [step, step + 1])
        for column in self.columns.values():
            column.cut(int(last))
        return int(last - first)

    def append(self, gradients: Array, values: Mapping[str, Array]) -> None:
        """gradients: [n, dimension] as stored; ``values``: [n] of each other column."""
        self.columns[GRADIENTS].append(gradients)
        for name in COLUMNS:
            self.columns[name].append(values[name])

    def commit(self) -> None:
        for column in self.columns.values():
            column.commit()

    def close(self) -> None:
        for column in self.columns.values():
            column.close()


def rank_folder(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}"


def rank_folders(folder: Path) -> list[Path]:
    """Those of all ranks of all attempts."""
    return sorted(folder.glob("rank-[0-9][0-9][0-9][0-9][0-9]"))


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say that the rows of all ranks are there, with what was written of each."""
    counts = {
        path.name: len(map_array(path / "steps.npy", _REMEDY)) for path in rank_folders(folder)
    }
    record = {"format_version": _FORMAT, **facts, "rows": sum(counts.values()), "ranks": counts}
    write_json(folder / MANIFEST, record)


@dataclass(frozen=True)
class CapturedRows:
    """Every rank's rows, one rank after the other; ``gradients`` are memory maps, a rank each.

    ``facts``: the manifest. The columns are as the module says, [n] each.
    """

    facts: dict[str, Any]
    gradients: list[Array]
    norms: npt.NDArray[np.float32]
    ids: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int32]
    rates: npt.NDArray[np.float32]
    intervals: npt.NDArray[np.int16]
    shares: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def dtype(self) -> str:
        """fp16, bf16 or fp32."""
        return str(self.facts["dtype"])

    @property
    def dimension(self) -> int:
        return int(self.facts["dimension"])

    def take(self, rows: npt.NDArray[np.int64]) -> Array:
        """The gradients of ``rows`` as they are stored, in that order, in memory."""
        found = np.empty((len(rows), self.dimension), self.gradients[0].dtype)
        begin = 0
        for array in self.gradients:
            mine = np.flatnonzero((rows >= begin) & (rows < begin + len(array)))
            found[mine] = array[rows[mine] - begin]
            begin += len(array)
        return found


def read_capture(folder: Path) -> CapturedRows:
    """What a proxy run captured. Raises DataError naming the file that is missing or damaged."""
    if not (folder / MANIFEST).exists():
        raise DataError(
            f"{folder} holds no finished capture (no {MANIFEST}); run the same command again to go "
            "on with the proxy run"
        )
    facts = read_json(folder / MANIFEST)
    found: dict[str, list[Array]] = {name: [] for name in (GRADIENTS, *COLUMNS)}
    for rank, rows in facts["ranks"].items():
        for name, arrays in found.items():
            array = map_array(folder / rank / f"{name}.npy", _REMEDY)
            if len(array) != rows:
                raise DataError(
                    f"{folder / rank / name}.npy has {len(array)} rows, {MANIFEST} says {rows}; "
                    f"{_REMEDY}"
                )
            arrays.append(array)
    gradients = found.pop(GRADIENTS)
    return CapturedRows(facts, gradients, **{n: np.concatenate(a) for n, a in found.items()})


def lost_rows(folder: Path, step: int, found: int, expected: int) -> CheckpointError:
    """A run that goes on from a step whose rows are gone."""
    return CheckpointError(
        f"the run goes on from step {step}, of which {folder} holds {found} captured rows and "
        f"should hold {expected}; delete the run's checkpoints to start over"
    )
