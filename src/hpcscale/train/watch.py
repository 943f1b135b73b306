"""Watching a run as it trains: watchers take snapshots and gradients, so that the loop need not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError

if TYPE_CHECKING:
    from hpcscale.data.packing import Batch
    from hpcscale.train.batching import BatchPlan
    from hpcscale.train.checkpoint import Position
    from hpcscale.train.engine import Engine


class Watcher(Protocol):
    """What ``train`` calls as it goes. All but ``before_pass`` are called by all ranks together.

    ``wants_positions``: the model is given position ids as [B, T] under every packing, so that
    hooks on the model see each row separately.
    """

    wants_positions: bool

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        """The run starts at ``position``: later steps of an earlier attempt are done again."""

    def before_pass(self, batch: Batch, step_tokens: int, weightless: bool) -> None:
        """``batch`` is run next; its loss is the sum of its nll divided by ``step_tokens``, the
        tokens of the global batch. ``weightless``: times 0."""

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        """The optimizer stepped with ``lr``, and the run is at ``position`` now."""

    def before_save(self, position: Position) -> None:
        """The training state of ``position`` is saved next: make durable what belongs to it."""


class Silent:
    """A watcher that does nothing; subclasses override what they need."""

    wants_positions = False

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        pass

    def before_pass(self, batch: Batch, step_tokens: int, weightless: bool) -> None:
        pass

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        pass

    def before_save(self, position: Position) -> None:
        pass


class Watchers:
    """Several watchers as one, called in their order; without any, nothing happens."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers
        self.wants_positions = any(watcher.wants_positions for watcher in watchers)

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        for watcher in self.watchers:
            watcher.started(engine, position, plan)

    def before_pass(self, batch: Batch, step_tokens: int, weightless: bool) -> None:
        for watcher in self.watchers:
            watcher.before_pass(batch, step_tokens, weightless)

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        for watcher in self.watchers:
            watcher.after_step(position, lr, engine)

    def before_save(self, position: Position) -> None:
        for watcher in self.watchers:
            watcher.before_save(position)


def without_skips(config: TrainConfig) -> TrainConfig:
    """``config`` for a run with watchers: it stops where loss or gradient are not finite.

    Watchers take every step for an update with its own rate, which a skipped step is not.
    """
    return config.model_copy(update={"on_nonfinite": "stop"})


def check_watched(config: TrainConfig) -> None:
    """Raises ConfigError where a run with these settings may skip steps."""
    if config.on_nonfinite == "skip":
        raise ConfigError(
            "train.on_nonfinite: skip is not for a run with watchers (snapshots, captured "
            "gradients), which take every step for an update; write stop, or pass "
            "`without_skips(config)`"
        )
