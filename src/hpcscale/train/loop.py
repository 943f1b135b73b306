"""The training loop: the same for every engine, world size and restart."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpcscale.atomic import write_json, write_text
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import Batch, PackedStream
from hpcscale.errors import Preempted, TrainingError
from hpcscale.model.forward import token_nll
from hpcscale.train.batching import BatchPlan, check_batch
from hpcscale.train.checkpoint import Checkpoints, Position
from hpcscale.train.distributed import Ranks, peak_memory
from hpcscale.train.engine import Engine, EngineSetup, make_engine
from hpcscale.train.room import need_of_room
from hpcscale.train.schedule import Schedule
from hpcscale.train.signals import LeadTime
from hpcscale.train.watch import Watcher

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
ENGINE = "engine.json"


@dataclass(frozen=True)
class TrainResult:
    """Of all attempts. ``weights`` is set on rank 0 where the module does not hold them."""

    tokens: int
    steps: int
    train_loss: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
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
    metrics: Path
    stop: Callable[[], bool]
    progress: Callable[[dict[str, Any]], None] | None
    watcher: Watcher | None
    lead: LeadTime
    started: float = field(default_factory=time.monotonic)
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
) -> TrainResult:
    """Train ``model`` on every row of ``stream`` once, going on from a checkpoint in ``out``.

    ``out/engine.json`` says what runs; each step appends a line to ``out/metrics.jsonl``. Where
    ``stop`` turns true on any rank, all save and raise Preempted. Raises TrainingError where loss
    or gradient are not finite.
    ``watcher`` is told of every pass and step, and changes nothing of the training. ``lead`` is
    told how long steps and saves take.
    """
    torch.manual_seed(seed)
    length = stream.sequence_length
    check_batch(config.global_batch, length, ranks.world_size, config.micro_batch)
    run = _Run(
        stream,
        config,
        ranks,
        make_engine(engine, EngineSetup(model, config, ranks, precision, length)),
        BatchPlan(
            stream.n_rows, config.global_batch // length, ranks.world_size, config.micro_batch
        ),
        Schedule.of(config, stream.n_tokens),
        Checkpoints(out / CHECKPOINTS, key, config.checkpoint.keep, ranks),
        out / METRICS,
        stop,
        progress,
        watcher,
        lead or LeadTime(),
    )
    if ranks.rank == 0:
        write_json(out / ENGINE, run.engine.resolved)
    position = run.checkpoints.restore(run.engine) or Position(0, 0, 0.0)
    if watcher:
        watcher.started(run.engine, position, run.plan)
    loss = math.nan
    # Rank 0 alone touches the file: another rank could see it before or after it is cut.
    with _Metrics(run.metrics, position.step) if ranks.rank == 0 else nullcontext() as metrics:
        while position.step < run.plan.steps:
            position, line = _step(run, position)
            loss = line["loss"]
            if metrics is not None:
                metrics.write(line)
                if progress:
                    progress(line)
        if metrics is not None and metrics.last:
            loss = metrics.last["loss"]
    weights = run.engine.weights()
    tokens_per_second = position.tokens / position.seconds if position.seconds else 0.0
    return TrainResult(
        position.tokens,
        position.step,
        loss,
        position.seconds,
        tokens_per_second,
        peak_memory(ranks),
        weights,
    )


def _step(run: _Run, position: Position) -> tuple[Position, dict[str, Any]]:
    """One optimizer step, and a checkpoint before it where one is due."""
    position = _save_if_due(run, position)
    began = time.monotonic()
    first, last = run.plan.step_rows(position.step)
    length = run.stream.sequence_length
    tokens = min(last * length, run.stream.n_tokens) - first * length
    nll = _forward_backward(run, position.step, tokens)
    lr = run.schedule.lr(position.tokens + tokens)
    total = float(run.ranks.all_sum([nll])[0])
    norm = run.engine.step(lr)
    loss = total / tokens
    _check_finite(run, position.step + 1, loss, norm)
    seconds = time.monotonic() - began
    run.lead.note_step(seconds)
    after = Position(position.step + 1, position.tokens + tokens, position.seconds + seconds)
    if run.watcher:
        run.watcher.after_step(after, lr, run.engine)
    line = {
        "step": after.step,
        "tokens": after.tokens,
        "loss": loss,
        "lr": lr,
        "grad_norm": norm,
        "tokens_per_second": tokens / seconds,
        "peak_memory_bytes": peak_memory(run.ranks),
        "seconds": after.seconds,
    }
    return after, line


def _forward_backward(run: _Run, step: int, tokens: int) -> float:
    """This rank's passes of a step; the sum of its nll. ``tokens``: of the whole global batch."""
    passes = list(run.plan.passes(step, run.ranks.rank))
    total = torch.zeros((), dtype=torch.float64, device=run.ranks.device)
    watcher = run.watcher
    for index, (first, last) in enumerate(passes):
        # A rank without rows in a short last batch repeats a row and gives it no weight.
        empty = first == last
        batch = run.stream.rows(first - empty, last)
        given = batch_tensors(
            batch, run.stream, run.ranks, positions=watcher is not None and watcher.wants_positions
        )
        if watcher:
            watcher.before_pass(batch, tokens, weightless=empty)
        with run.engine.forward_pass(last=index == len(passes) - 1):
            nll = token_nll(run.engine.model, *given).sum()
        loss = nll * (0.0 if empty else 1.0 / tokens)
        run.engine.backward(loss)
        if not empty:
            total += nll.detach()
    return float(total)


def batch_tensors(
    batch: Batch, stream: PackedStream, ranks: Ranks, positions: bool = False
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Arguments of ``token_nll``; segments only where a row holds several, and position ids
    there, or wherever ``positions`` asks for them."""
    one_segment = bool((batch.segments == batch.segments[:, :1]).all())
    apart = stream.packing == "isolate" and not one_segment

    def tensor(part: npt.NDArray[np.int64]) -> Tensor:
        there = torch.from_numpy(part)
        if ranks.device.type == "cuda":
            there = there.pin_memory().to(ranks.device, non_blocking=True)
        return there

    return (
        tensor(batch.inputs),
        tensor(batch.targets),
        tensor(batch.segments) if apart else None,
        tensor(batch.positions) if apart or positions else None,
    )


def _save_if_due(run: _Run, position: Position) -> Position:
    """All ranks agree on whether to stop and whether to save, since both are collective."""
    every = run.config.checkpoint
    overdue = time.monotonic() - run.saved >= every.every
    counted = position.step and _counted(run.config, position)
    # Rank 0's clock decides for all.
    wishes = [float(run.stop()), float(overdue and run.ranks.rank == 0)]
    stopping, due = run.ranks.all_sum(wishes) > 0
    if not (stopping or due or counted):
        return position
    if position.step:
        if run.watcher:
            run.watcher.before_save(position)
        began = time.monotonic()
        with need_of_room(run.checkpoints.folder):
            run.checkpoints.save(run.engine, position)
        run.saved = time.monotonic()
        run.lead.note_save(run.saved - began)
    if stopping:
        raise Preempted(
            f"stopped after step {position.step} of {run.plan.steps}; the state is saved"
        )
    return position


def _counted(config: TrainConfig, position: Position) -> bool:
    """Whether the step before ``position`` completed a number of steps or tokens to save at."""
    every, tokens = config.checkpoint, config.checkpoint.every_tokens
    if every.every_steps and position.step % every.every_steps == 0:
        return True
    before = position.tokens - config.global_batch
    return tokens is not None and position.tokens // tokens > before // tokens


def _check_finite(run: _Run, step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    first, last = run.plan.step_rows(step - 1)
    raise TrainingError(
        f"step {step} of {run.plan.steps}: loss {loss}, gradient norm {norm} (rows {first} to "
        f"{last - 1} of the selection); lower train.lr, lengthen train.warmup or set "
        f"train.precision: fp32, then run again; {run.metrics} holds the curve up to there"
    )


class _Metrics:
    """A line a step, each step once: lines behind the checkpoint that a run goes on from go."""

    def __init__(self, path: Path, step: int) -> None:
        lines = _lines_up_to(path, step)
        self.last = lines[-1] if lines else None
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self.handle = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, line: dict[str, Any]) -> None:
        self.last = line
        self.handle.write(json.dumps(line) + "\n")
        self.handle.flush()

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.close()


def _lines_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break  # the write that the kill cut short
        if line["step"] <= step:
            lines.append(line)
    return lines
