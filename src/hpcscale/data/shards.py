"""How units are divided into shards."""

from __future__ import annotations


def shard_range(index: int, count: int, units: int) -> tuple[int, int]:
    """The units [first, last) of shard ``index`` of ``count``."""
    return index * units // count, (index + 1) * units // count
