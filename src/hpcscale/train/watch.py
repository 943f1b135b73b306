"""Watching a run as it trains: snapshots and gradients are the work of watchers, not the loop's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hpcscale.data.packing import Batch
    from hpcscale.train.batching import BatchPlan
    from hpcscale.train.checkpoint import Position
    from hpcscale.train.engine import Engine


class Watcher(Protocol):
    """What ``train`` tells as it goes. All but ``before_pass`` are called by all ranks together.

    ``wants_positions``: the model is given position ids as [B, T] under every packing, so that
    hooks on it hear of each row by itself.
    """

    wants_positions: bool

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        """The run goes on from ``position``: what an attempt wrote of later steps is done again."""

    def before_pass(self, batch: Batch, step_tokens: int, weightless: bool) -> None:
        """``batch`` is run next, and its loss is the sum of its nll over ``step_tokens``, the
        tokens of the global batch; ``weightless``: times 0."""

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        """The optimizer stepped with ``lr``, and the run is at ``position`` now."""

    def before_save(self, position: Position) -> None:
        """The training state of ``position`` is saved next; what was written up to it must last."""


class Silent:
    """A watcher of nothing; others overwrite what they care for."""

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
    """Several as one, told in their order."""

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
