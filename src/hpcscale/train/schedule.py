"""The learning rate as a function of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hpcscale.config.train import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up by tokens, then constant or a decay to ``min_ratio`` of the peak.

    ``hold``: tokens at which the decay begins. A cosine (Loshchilov and Hutter 2017) begins right
    after the warm-up; 1 - sqrt and linear (``shape``) begin after a constant phase: warm-up,
    stable, decay. With 1 - sqrt over 20 %, that reaches the loss of a cosine (Haegele et al. 2024,
    arXiv 2405.18392). A step uses the rate at the tokens seen when it *ends*, so that the first
    step of a warm-up is not wasted at 0 and the last step of a decay is at the minimum.
    """

    peak: float
    budget: int
    warmup: int
    hold: int
    shape: Literal["cosine", "constant", "1-sqrt", "linear"]
    min_ratio: float

    @classmethod
    def of(cls, config: TrainConfig, budget: int) -> Schedule:
        """The schedule of a run of ``budget`` tokens."""
        warmup = min(config.warmup_tokens(budget), budget)
        peak, floor = config.scaled_lr, config.min_lr_ratio
        if config.schedule == "cosine" or config.schedule == "constant":
            return cls(peak, budget, warmup, warmup, config.schedule, floor)
        hold = config.decay_start(budget)
        return cls(peak, budget, min(warmup, hold), hold, config.decay_shape, floor)

    def lr(self, tokens: int) -> float:
        """The rate of the step that ends at ``tokens`` tokens seen."""
        if tokens < self.warmup:
            return self.peak * tokens / self.warmup
        if self.shape == "constant" or tokens <= self.hold or self.budget == self.hold:
            return self.peak
        done = min(1.0, (tokens - self.hold) / (self.budget - self.hold))
        left = {
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
            "1-sqrt": 1 - math.sqrt(done),
            "linear": 1 - done,
        }[self.shape]
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * left)


def step_rates(config: TrainConfig, tokens: int) -> list[float]:
    """The rate of each optimizer step of a run over ``tokens`` tokens, in order."""
    schedule, batch = Schedule.of(config, tokens), config.global_batch
    steps = -(-tokens // batch)
    return [schedule.lr(min((step + 1) * batch, tokens)) for step in range(steps)]
