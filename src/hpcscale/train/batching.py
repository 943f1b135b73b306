"""How a global batch is split over ranks and micro-batches. No torch: the planner calls it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpcscale.errors import ConfigError


def check_batch(global_batch: int, sequence_length: int, world_size: int, micro_batch: int) -> int:
    """The forward passes of each rank in a step.

    global_batch: in tokens. micro_batch: in sequences. Raises ConfigError, with values that would
    fit, where the batch cannot be divided evenly.
    """
    rows, rest = divmod(global_batch, sequence_length)
    if rest or not rows:
        below = max(1, rows) * sequence_length
        raise ConfigError(
            f"train.global_batch {global_batch} is not a multiple of the sequence length "
            f"{sequence_length}; write {below} or {below + sequence_length}"
        )
    if rows % world_size:
        raise ConfigError(
            f"train.global_batch {global_batch} is {rows} sequences, which {world_size} ranks "
            f"cannot share evenly; ranks may number {_divisors(rows)}, or write a global batch of "
            f"{-(-rows // world_size) * world_size * sequence_length}"
        )
    share = rows // world_size
    if share % micro_batch:
        raise ConfigError(
            f"train.micro_batch {micro_batch} does not divide the {share} sequences that each of "
            f"{world_size} rank(s) has of train.global_batch {global_batch}; write one of "
            f"{_divisors(share)}"
        )
    return share // micro_batch


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@dataclass(frozen=True)
class BatchPlan:
    """The rows of each step, rank and forward pass of a stream of ``n_rows`` rows."""

    n_rows: int
    rows_per_step: int
    world_size: int
    micro_batch: int

    @property
    def steps(self) -> int:
        return -(-self.n_rows // self.rows_per_step)

    def step_rows(self, step: int) -> tuple[int, int]:
        """Rows [first, last) of ``step``, counted from 0; the last step may be short."""
        first = step * self.rows_per_step
        return first, min(first + self.rows_per_step, self.n_rows)

    def passes(self, step: int, rank: int) -> Iterator[tuple[int, int]]:
        """Rows [first, last) of each forward pass: the same number of passes on every rank, some of
        them perhaps empty."""
        first, last = self.step_rows(step)
        stride = self.micro_batch * self.world_size
        for start in range(first, last, stride):
            mine = min(start + rank * self.micro_batch, last)
            yield mine, min(mine + self.micro_batch, last)
