"""The global order of documents: a function of (seed, epoch, ids) only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix_int(value: int) -> int:
    """The splitmix64 finaliser (Steele, Lea and Flood 2014), a bijection of 64-bit integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def keyed_hash(ids: npt.ArrayLike, *key: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id under ``key``, any number of integers from 0 to 2^64 - 1.

    For one key it is a bijection, so different ids never tie.
    """
    state = 0
    for part in key:
        if not 0 <= part <= _MASK:
            raise ValueError(f"{part} is not a seed; a seed lies between 0 and 2^64 - 1")
        state = _mix_int((state + _GOLDEN & _MASK) ^ _mix_int(part + _GOLDEN & _MASK))
    values = np.asarray(ids, dtype=np.uint64)
    # Two rounds: one alone maps ids that differ by a seed's xor to equal orders.
    return _mix(_mix(values ^ np.uint64(state)) + np.uint64(_mix_int(state ^ _GOLDEN)))


def document_order(ids: npt.NDArray[np.uint64], seed: int, epoch: int = 0) -> npt.NDArray[np.int64]:
    """Positions into ``ids`` (shape [n], uint64) in training order.

    ``ids[document_order(ids, seed, epoch)]`` depends on the set of ids alone: not on the order
    in which a store holds them, nor on ranks, workers or library versions.
    """
    hashes = keyed_hash(ids, seed, epoch)
    return np.lexsort((ids, hashes)).astype(np.int64, copy=False)
