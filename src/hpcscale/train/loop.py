"""The training loop: the same for every engine, world size and restart."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hpcscale.atomic import write_json
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.errors import Preempted
from hpcscale.model.dropout import check_repeatable
from hpcscale.model.flops import model_flops_per_token
from hpcscale.model.forward import token_nll
from hpcscale.model.isolation import check_isolation
from hpcscale.model.limits import check_reads
from hpcscale.rundir.layout import CHECKPOINTS, ENGINE, METRICS
from hpcscale.train.agreement import StepRequests
from hpcscale.train.batching import BatchPlan, check_batch
from hpcscale.train.checkpoint import Checkpoints, Origin, Position
from hpcscale.train.distributed import Ranks, peak_memory
from hpcscale.train.engine import Engine, EngineSetup
from hpcscale.train.engines import make_engine
from hpcscale.train.guards import Guard, describe_batch
from hpcscale.train.metrics import Meter, Recorder, StepLog, finite
from hpcscale.train.options import WHOLE_RUN, Hooks, RunSetup, Segment
from hpcscale.train.prefetch import Prefetch
from hpcscale.train.restore import restore, restore_from
from hpcscale.train.schedule import Schedule
from hpcscale.train.sinks import Attempt, Sinks
from hpcscale.train.watch import Watchers, check_watched


@dataclass(frozen=True)
class TrainResult:
    """A run over all its attempts.

    train_loss: of the last step that updated. device_hours: GPUs (or CPU ranks) times hours in
    steps. mfu: None where the GPU's peak is not known. skipped_steps, overflow_steps: steps without
    an update, by `on_nonfinite: skip` and by fp16's loss scale. weights: float32, on rank 0, where
    the module does not hold them; else None.
    """

    tokens: int
    steps: int
    train_loss: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    device_hours: float
    mfu: float | None
    skipped_steps: int
    overflow_steps: int
    weights: dict[str, Tensor] | None


def train(
    model: nn.Module,
    stream: PackedStream,
    config: TrainConfig,
    setup: RunSetup,
    hooks: Hooks | None = None,
    segment: Segment = WHOLE_RUN,
) -> TrainResult:
    """Train ``model`` once on every row of ``stream``, from the last checkpoint in ``setup.out``.

    Writes ``engine.json``, the settings as they run, and a line a step to ``metrics.jsonl``.
    Raises Preempted where a stop is asked for, after a save; TrainingError where loss or gradient
    are not finite, unless `config.on_nonfinite` skips such steps; ConfigError where it does in a
    run with watchers.
    """
    hooks, ranks, length = hooks or Hooks(), setup.ranks, stream.sequence_length
    if hooks.watchers:
        check_watched(config)
    torch.manual_seed(setup.seed)
    check_trainable(model, stream)
    plan = _plan(stream, config, ranks, segment)
    meter = Meter.of(ranks, model_flops_per_token(model, length), setup.precision)
    engine = make_engine(setup.engine, EngineSetup(model, config, ranks, setup.precision, length))
    origin = Origin(setup.key, setup.seed, stream.fingerprint)
    position = _start(engine, setup, origin, segment)
    if ranks.rank == 0:
        write_json(setup.out / ENGINE, engine.resolved)
    with ExitStack() as closing:
        folder = setup.out / CHECKPOINTS
        checkpoints = Checkpoints(folder, origin, config.checkpoint, ranks)
        closing.enter_context(checkpoints)
        recorder = _recorder(closing, config, setup, hooks, position)
        guard = Guard(
            config, setup.precision, ranks, setup.out, lambda s: describe_batch(stream, plan, s)
        )
        closing.enter_context(guard).resume(position.step, recorder.log.lines if recorder else [])
        watcher = Watchers(hooks.watchers)
        prefetch = Prefetch(stream, plan, ranks, position.step, watcher.wants_positions)
        loop = _Loop(
            config=config,
            ranks=ranks,
            engine=engine,
            stream=stream,
            plan=plan,
            schedule=Schedule.of(config, stream.n_tokens),
            prefetch=closing.enter_context(prefetch),
            checkpoints=checkpoints,
            guard=guard,
            meter=meter,
            watcher=watcher,
            hooks=hooks,
        )
        watcher.started(engine, position, plan)
        while position.step < plan.steps:
            loop.save_if_due(position)
            position, line = loop.step(position)
            if recorder:
                recorder.write(line)
        if segment.steps is not None:
            checkpoints.save(engine, position)
        checkpoints.finish()
    return _result(engine, position, guard, meter, recorder)


def check_trainable(model: nn.Module, stream: PackedStream) -> None:
    """Raises HpcscaleError where training would depend on how rows are spread over ranks, or
    ``model`` cannot read the rows of ``stream`` as they are packed."""
    check_reads(model, stream.store, stream.sequence_length)
    check_repeatable(model)
    if stream.packing == "isolate":
        check_isolation(model)


def _plan(stream: PackedStream, config: TrainConfig, ranks: Ranks, segment: Segment) -> BatchPlan:
    length = stream.sequence_length
    check_batch(config.global_batch, length, ranks.world_size, config.micro_batch)
    rows = config.global_batch // length
    n_rows = stream.n_rows
    if segment.steps is not None:
        n_rows = min(segment.steps * rows, n_rows)
    return BatchPlan(n_rows, rows, ranks.world_size, config.micro_batch)


def _start(engine: Engine, setup: RunSetup, origin: Origin, segment: Segment) -> Position:
    """Load the run's own state, or else the trunk's, if there is one."""
    position = restore(engine, setup.out / CHECKPOINTS, origin, setup.ranks)
    if segment.trunk and (position is None or not position.step):
        return restore_from(engine, segment.trunk, origin, setup.ranks)
    return position or Position(0, 0, 0.0)


def _recorder(
    closing: ExitStack, config: TrainConfig, setup: RunSetup, hooks: Hooks, position: Position
) -> Recorder | None:
    """On rank 0 alone: another rank could read the files before or after they are cut."""
    if setup.ranks.rank:
        return None
    log = closing.enter_context(StepLog(setup.out / METRICS, position.step))
    attempt = Attempt(setup.out, position.step, log.seen, config.plain())
    sinks = closing.enter_context(Sinks(config.sinks, attempt))
    listeners = [sinks.write, *([hooks.progress] if hooks.progress else [])]
    return Recorder(log, setup.ranks.world_size, listeners)


def _result(
    engine: Engine, position: Position, guard: Guard, meter: Meter, recorder: Recorder | None
) -> TrainResult:
    weights = engine.weights()
    tokens, seconds = position.tokens, position.seconds
    hours = seconds * meter.ranks.world_size / 3600
    if recorder:
        hours = recorder.last.get("device_hours", hours)
    return TrainResult(
        tokens=tokens,
        steps=position.step,
        train_loss=guard.last_loss,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        peak_memory_bytes=peak_memory(meter.ranks),
        device_hours=hours,
        mfu=meter.mfu(tokens, hours * 3600),
        skipped_steps=guard.counts.nonfinite,
        overflow_steps=guard.counts.overflow,
        weights=weights,
    )


@dataclass(kw_only=True)
class _Loop:
    """The steps of one attempt, and the checkpoints between them."""

    config: TrainConfig
    ranks: Ranks
    engine: Engine
    stream: PackedStream
    plan: BatchPlan
    schedule: Schedule
    prefetch: Prefetch
    checkpoints: Checkpoints
    guard: Guard
    meter: Meter
    watcher: Watchers
    hooks: Hooks
    saved_at: float = field(default_factory=time.monotonic)

    def step(self, position: Position) -> tuple[Position, dict[str, Any]]:
        """One optimizer step; where the run is after it, and the line for metrics.jsonl."""
        began = time.monotonic()
        first, last = self.plan.step_rows(position.step)
        length = self.stream.sequence_length
        tokens = min(last * length, self.stream.n_tokens) - first * length
        nll = self._forward_backward(tokens)
        lr = self.schedule.lr(position.tokens + tokens)
        loss = float(self.ranks.all_sum([nll])[0]) / tokens
        norm = self.engine.step(lr)
        skipped = self.guard.judge(position.step + 1, loss, norm)
        seconds = time.monotonic() - began
        self.hooks.lead.note_step(seconds)
        after = Position(position.step + 1, position.tokens + tokens, position.seconds + seconds)
        self.watcher.after_step(after, lr, self.engine)
        line = {
            "step": after.step,
            "tokens": after.tokens,
            "loss": finite(loss),
            "lr": lr,
            "grad_norm": finite(norm),
            "skipped": skipped,
            **self.meter.line(tokens, seconds, self.prefetch.waited),
            "seconds": after.seconds,
        }
        return after, line

    def _forward_backward(self, tokens: int) -> float:
        """This rank's passes of a step; the sum of its nll. ``tokens``: of the global batch."""
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for one in self.prefetch.step():
            self.watcher.before_pass(one.batch, tokens, weightless=one.weightless)
            with self.engine.forward_pass(one.last):
                nll = token_nll(self.engine.model, *one.arguments).sum()
            loss = nll * (0.0 if one.weightless else 1.0 / tokens)
            # Times 1, or NaN where the loss is not finite: then no rank's gradients are finite.
            self.engine.backward(loss * (nll.detach() * 0 + 1))
            if not one.weightless:
                total += nll.detach()
        return float(total)

    def save_if_due(self, position: Position) -> None:
        """Save a checkpoint where the settings, the clock or a stop asks for one. Raises Preempted.

        All ranks take part in a save and in a stop, so they agree on both first.
        """
        every = self.config.checkpoint
        # Rank 0's clock decides for all.
        overdue = self.ranks.rank == 0 and time.monotonic() - self.saved_at >= every.every
        asked = StepRequests(self.hooks.stop(), overdue, self.checkpoints.poll()).agree(self.ranks)
        self.checkpoints.advance(asked.progress)
        reached = position.step, position.tokens, position.tokens - self.config.global_batch
        due = asked.stop or asked.save or every.due(*reached)
        if due and position.step:
            self._save(position, lasting=every.lasting(*reached), whole=asked.stop)
        if asked.stop:
            raise Preempted(
                f"stopped after step {position.step} of {self.plan.steps}; the state is saved"
            )

    def _save(self, position: Position, lasting: bool, whole: bool) -> None:
        """``whole``: wait until the checkpoint is whole on disk."""
        self.watcher.before_save(position)
        began = time.monotonic()
        self.checkpoints.save(self.engine, position, lasting)
        self.saved_at = time.monotonic()
        if whole:
            self.checkpoints.finish()
        # A stop may have to wait for the save before it.
        seconds = time.monotonic() - began
        self.hooks.lead.note_save(max(seconds, 2 * self.checkpoints.longest))
