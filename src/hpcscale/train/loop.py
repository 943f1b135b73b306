"""The training loop: the same for every engine, world size and restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
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
from hpcscale.train.batching import BatchPlan, check_batch
from hpcscale.train.checkpoint import Checkpoints, Origin, Position
from hpcscale.train.distributed import Ranks, peak_memory
from hpcscale.train.engine import Engine, EngineSetup
from hpcscale.train.engines import make_engine
from hpcscale.train.guards import Guard, describe_batch
from hpcscale.train.metrics import METRICS, Meter, Recorder, StepLog, finite
from hpcscale.train.prefetch import Feed
from hpcscale.train.schedule import Schedule
from hpcscale.train.signals import LeadTime
from hpcscale.train.sinks import Attempt, Sinks
from hpcscale.train.watch import Watcher

CHECKPOINTS = "checkpoints"
ENGINE = "engine.json"


@dataclass(frozen=True)
class TrainResult:
    """Of all attempts. ``weights`` is set on rank 0 where the module does not hold them.

    train_loss: of the last step that updated. device_hours: GPUs (or CPU ranks) times hours in
    steps. mfu: None where the GPU's peak is not known. skipped_steps, overflow_steps: without an
    update, for `on_nonfinite: skip` and for fp16's loss scale.
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


@dataclass
class _Run:
    """One attempt."""

    stream: PackedStream
    config: TrainConfig
    ranks: Ranks
    engine: Engine
    plan: BatchPlan
    schedule: Schedule
    checkpoints: Checkpoints
    meter: Meter
    guard: Guard
    feed: Feed
    stop: Callable[[], bool]
    watcher: Watcher | None
    lead: LeadTime
    saved: float = field(default_factory=time.monotonic)


def train(
    model: nn.Module,
    stream: PackedStream,
    config: TrainConfig,
    *,
    engine: str,
    precision: str,
    seed: int,
    ranks: Ranks,
    out: Path,
    key: str,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[dict[str, Any]], None] | None = None,
    watcher: Watcher | None = None,
    lead: LeadTime | None = None,
    trunk: Path | None = None,
    steps: int | None = None,
) -> TrainResult:
    """Train ``model`` on every row of ``stream`` once, going on from a checkpoint in ``out``.

    ``out/engine.json`` says what runs; each step appends a line to ``out/metrics.jsonl``. Where
    ``stop`` turns true on any rank, all save and raise Preempted. Raises TrainingError where loss
    or gradient are not finite, unless ``config.on_nonfinite`` skips such steps.
    ``watcher`` is told of every pass and step, and changes nothing of the training; a run that is
    watched skips no step. ``lead`` is told how long steps and saves take.
    ``trunk``: the checkpoint of another run of these tokens, which the first attempt goes on from.
    ``steps``: end behind this step, with a checkpoint.
    """
    torch.manual_seed(seed)
    length = stream.sequence_length
    check_trainable(model, stream)
    check_batch(config.global_batch, length, ranks.world_size, config.micro_batch)
    rows = config.global_batch // length
    n_rows = stream.n_rows if steps is None else min(steps * rows, stream.n_rows)
    plan = BatchPlan(n_rows, rows, ranks.world_size, config.micro_batch)
    meter = Meter.of(ranks, model_flops_per_token(model, length), precision)
    made = make_engine(engine, EngineSetup(model, config, ranks, precision, length))
    origin = Origin(key, seed, stream.fingerprint)
    checkpoints = Checkpoints(out / CHECKPOINTS, origin, config.checkpoint, ranks)
    position = checkpoints.restore(made) or Position(0, 0, 0.0)
    if trunk and not position.step:
        position = checkpoints.restore_from(made, trunk)
    with ExitStack() as closing:
        closing.callback(checkpoints.close)
        # Rank 0 alone touches the files: another rank could see them before or after they are cut.
        recorder = None
        if ranks.rank == 0:
            write_json(out / ENGINE, made.resolved)
            recorder = _recorder(closing, config, ranks, out, position, progress)
        guard = closing.enter_context(
            Guard(
                config, precision, ranks, out,
                skip=config.on_nonfinite == "skip" and watcher is None,
                batch_of=lambda step: describe_batch(stream, plan, step),
            )
        )  # fmt: skip
        guard.resume(position.step, recorder.log.lines if recorder else [])
        wants_positions = watcher is not None and watcher.wants_positions
        feed = closing.enter_context(Feed(stream, plan, ranks, position.step, wants_positions))
        run = _Run(
            stream, config, ranks, made, plan, Schedule.of(config, stream.n_tokens), checkpoints,
            meter, guard, feed, stop, watcher, lead or LeadTime(),
        )  # fmt: skip
        if watcher:
            watcher.started(made, position, plan)
        while position.step < plan.steps:
            position, line = _step(run, position)
            if recorder:
                recorder.write(line)
        if steps is not None:
            checkpoints.save(made, position)
        checkpoints.finish()
    weights = run.engine.weights()
    hours = position.seconds * ranks.world_size / 3600
    hours = recorder.last.get("device_hours", hours) if recorder else hours
    return TrainResult(
        position.tokens,
        position.step,
        guard.last_loss,
        position.seconds,
        position.tokens / position.seconds if position.seconds else 0.0,
        peak_memory(ranks),
        hours,
        meter.mfu(position.tokens, hours * 3600),
        guard.counts.nonfinite,
        guard.counts.overflow,
        weights,
    )


def check_trainable(model: nn.Module, stream: PackedStream) -> None:
    """Raises HpcscaleError where training would depend on how rows are spread over ranks, or
    ``model`` cannot read the rows of ``stream`` as they are packed."""
    check_reads(model, stream.store, stream.sequence_length)
    check_repeatable(model)
    if stream.packing == "isolate":
        check_isolation(model)


def _recorder(
    closing: ExitStack, config: TrainConfig, ranks: Ranks, out: Path, position: Position,
    progress: Callable[[dict[str, Any]], None] | None,
) -> Recorder:  # fmt: skip
    log = closing.enter_context(StepLog(out / METRICS, position.step))
    attempt = Attempt(out, position.step, log.seen, config.plain())
    sinks = closing.enter_context(Sinks(config.sinks, attempt))
    return Recorder(log, ranks.world_size, [sinks.write, *([progress] if progress else [])])


def _step(run: _Run, position: Position) -> tuple[Position, dict[str, Any]]:
    """One optimizer step, and a checkpoint before it where one is due."""
    position = _save_if_due(run, position)
    began = time.monotonic()
    first, last = run.plan.step_rows(position.step)
    length = run.stream.sequence_length
    tokens = min(last * length, run.stream.n_tokens) - first * length
    nll = _forward_backward(run, tokens)
    lr = run.schedule.lr(position.tokens + tokens)
    loss = float(run.ranks.all_sum([nll])[0]) / tokens
    norm = run.engine.step(lr)
    skipped = run.guard.judge(position.step + 1, loss, norm)
    seconds = time.monotonic() - began
    run.lead.note_step(seconds)
    after = Position(position.step + 1, position.tokens + tokens, position.seconds + seconds)
    if run.watcher:
        run.watcher.after_step(after, lr, run.engine)
    line = {
        "step": after.step,
        "tokens": after.tokens,
        "loss": finite(loss),
        "lr": lr,
        "grad_norm": finite(norm),
        "skipped": skipped,
        **run.meter.line(tokens, seconds, run.feed.waited),
        "seconds": after.seconds,
    }
    return after, line


def _forward_backward(run: _Run, tokens: int) -> float:
    """This rank's passes of a step; the sum of its nll. ``tokens``: of the whole global batch."""
    total = torch.zeros((), dtype=torch.float64, device=run.ranks.device)
    for one in run.feed.step():
        if run.watcher:
            run.watcher.before_pass(one.batch, tokens, weightless=one.weightless)
        with run.engine.forward_pass(one.last):
            nll = token_nll(run.engine.model, *one.given).sum()
        loss = nll * (0.0 if one.weightless else 1.0 / tokens)
        # Times 1, or NaN where the loss is not finite: its gradients then are not, on any rank.
        run.engine.backward(loss * (nll.detach() * 0 + 1))
        if not one.weightless:
            total += nll.detach()
    return float(total)


def _save_if_due(run: _Run, position: Position) -> Position:
    """All ranks agree on whether to stop and whether to save, since both are collective."""
    every = run.config.checkpoint
    overdue = time.monotonic() - run.saved >= every.every
    before = position.tokens - run.config.global_batch
    reached = position.step, position.tokens, before
    # Rank 0's clock decides for all.
    wishes = [float(run.stop()), float(overdue and run.ranks.rank == 0)]
    stopping, due, *written = run.ranks.all_sum([*wishes, *run.checkpoints.report()])
    run.checkpoints.heed(*written)
    if not (stopping or due or (position.step and every.due(*reached))):
        return position
    if position.step:
        if run.watcher:
            run.watcher.before_save(position)
        began = time.monotonic()
        run.checkpoints.save(run.engine, position, every.lasting(*reached))
        run.saved = time.monotonic()
        if stopping:
            run.checkpoints.finish()
        # A stop may have to wait for the save before it.
        run.lead.note_save(max(time.monotonic() - began, 2 * run.checkpoints.longest))
    if stopping:
        raise Preempted(
            f"stopped after step {position.step} of {run.plan.steps}; the state is saved"
        )
    return position
