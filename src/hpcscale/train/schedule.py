"""The learning rate as a function of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpcscale.config.train import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up by tokens, then cosine to ``min_lr_ratio`` of the peak, or constant.

    A step uses the rate at the tokens seen when it *ends*, so that the first step of a warm-up is
    not wasted at 0 and the last step of a cosine is at the minimum.
    """

    peak: float
    budget: int
    warmup: int
    kind: str
    min_ratio: float

    @classmethod
    def of(cls, config: TrainConfig, budget: int) -> Schedule:
        """The schedule of a run of ``budget`` tokens."""
        warmup = min(config.warmup_tokens(budget), budget)
        return cls(config.scaled_lr, budget, warmup, config.schedule, config.min_lr_ratio)

    def lr(self, tokens: int) -> float:
        """The rate of the step that ends at ``tokens`` tokens seen."""
        if tokens < self.warmup:
            return self.peak * tokens / self.warmup
        if self.kind == "constant" or self.budget == self.warmup:
            return self.peak
        done = min(1.0, (tokens - self.warmup) / (self.budget - self.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * cosine)


def step_rates(config: TrainConfig, tokens: int) -> list[float]:
    """The rate of each optimizer step of a run over ``tokens`` tokens, in order."""
    schedule, batch = Schedule.of(config, tokens), config.global_batch
    steps = -(-tokens // batch)
    return [schedule.lr(min((step + 1) * batch, tokens)) for step in range(steps)]
