"""A proxy run's steps cut into intervals, each of which a snapshot at its end stands for."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError
from hpcscale.train.schedule import step_rates


@dataclass(frozen=True)
class CheckpointSchedule:
    """``ends``: the last step of each interval, steps counted from 1. ``rates``: of each step."""

    ends: tuple[int, ...]
    rates: tuple[float, ...]

    @classmethod
    def of(cls, config: TrainConfig, tokens: int, count: int) -> CheckpointSchedule:
        """The steps of a run over ``tokens`` tokens in ``count`` intervals, as even as can be.

        Raises ConfigError where there are fewer steps than intervals.
        """
        rates = step_rates(config, tokens)
        steps = len(rates)
        if not 1 <= count <= steps:
            raise ConfigError(
                f"{count} snapshots cannot be taken of a proxy run of {steps} steps ({tokens} "
                f"tokens at a global batch of {config.global_batch}); ask for 1 to {steps}, "
                "lengthen the run or lower its global batch"
            )
        return cls(tuple(round(steps * (k + 1) / count) for k in range(count)), tuple(rates))

    def of_step(self, step: int) -> int:
        """The interval, counted from 0, that ``step`` lies in."""
        return bisect_left(self.ends, step)

    def eta(self, interval: int) -> float:
        """The sum of the learning rates of the interval's steps."""
        first = self.ends[interval - 1] if interval else 0
        return sum(self.rates[first : self.ends[interval]])
