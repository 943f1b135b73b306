"""The code that all training tasks share: base model, proxy run, segments of trunks and cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hpcscale.atomic import read_json, write_json
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.model.build import save_model
from hpcscale.model.flops import model_flops_per_token
from hpcscale.plan.specs import PretrainSpec, ProxySpec, TrainSpec, TrunkSpec
from hpcscale.rundir.layout import (
    CHECKPOINTS,
    ENGINE,
    METRICS,
    MODEL,
    RECORD,
    SELECTION,
    SELECTION_SUMMARY,
    STORE,
)
from hpcscale.rundir.trunks import release
from hpcscale.selection.budget import read_selection
from hpcscale.train.distributed import Ranks, device_name
from hpcscale.train.loop import TrainResult, train
from hpcscale.train.options import Hooks, RunSetup, Segment
from hpcscale.train.tag_files import tags_in
from hpcscale.train.watch import Watcher
from hpcscale.train.zero import resolve_engine
from hpcscale.units import format_rate
from hpcscale.worker.branch import BranchPoint, branch_point, shares
from hpcscale.worker.context import Context, StepResult

#: A task that trains.
Training = Context[PretrainSpec] | Context[ProxySpec] | Context[TrainSpec] | Context[TrunkSpec]


def selected_stream(
    context: Context[TrainSpec] | Context[TrunkSpec],
) -> tuple[PackedStream, dict[str, Any]]:
    """The tokens that a cell trains on, and the summary of its selection."""
    sequences = context.spec.sequences
    store = TokenStore.open(context.input("pool") / STORE)
    selected = context.input("selection")
    ids, tokens = read_selection(selected / SELECTION)
    stream = PackedStream(
        store, store.index_of(ids), tokens, sequences.sequence_length, sequences.packing
    )
    return stream, read_json(selected / SELECTION_SUMMARY)


def train_and_save(
    context: Training,
    model: nn.Module,
    stream: PackedStream,
    ranks: Ranks,
    facts: dict[str, Any],
    *,
    config: TrainConfig | None = None,
    watchers: Sequence[Watcher] = (),
    save: bool = True,
) -> StepResult:
    """Train ``model`` on ``stream``, save it in Hugging Face format, and record how it went.

    ``config``: replaces the task's own. ``save``: False where only what the watchers write is
    needed, and no task reads the model.
    """
    point, size = branch_point(context, stream), _size(model, stream)
    segment = Segment(point.tag if point else None)
    result = _train(context, model, stream, ranks, segment, config, watchers)
    record = facts | _record(ranks, result) | size | shares(point, result)
    out = context.directory / MODEL
    if ranks.rank == 0:
        if save:
            save_model(model, out, result.weights)
        write_json(context.directory / RECORD, record)
    ranks.barrier()
    saved = [f"{MODEL}/{file.name}" for file in out.iterdir()] if save else []
    # Later stages read only the model, so that the training state is no longer needed.
    return StepResult(
        [RECORD, METRICS, ENGINE, *saved],
        record,
        temporary=(CHECKPOINTS,),
        on_done=_releasing(context, point),
    )


def train_segment(
    context: Context[TrunkSpec], model: nn.Module, stream: PackedStream, ranks: Ranks
) -> StepResult:
    """Train ``model`` on the tokens of a trunk's segment, and keep the state at its end."""
    spec, folder = context.spec, context.directory / CHECKPOINTS
    point, size = branch_point(context, stream), _size(model, stream)
    steps = spec.tokens // spec.training.train.global_batch
    segment = Segment(point.tag if point else None, steps)
    result = _train(context, model, stream, ranks, segment)
    record = _record(ranks, result) | size | shares(point, result)
    if ranks.rank == 0:
        write_json(context.directory / RECORD, record)
    ranks.barrier()
    tag = tags_in(folder)[-1]
    state = [f"{CHECKPOINTS}/{tag}/{file.name}" for file in (folder / tag).iterdir()]
    folders = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return StepResult(
        [RECORD, METRICS, ENGINE, *state],
        record,
        temporary=tuple(f"{CHECKPOINTS}/{name}" for name in folders if name != tag),
        on_done=_releasing(context, point),
    )


def _releasing(context: Training, point: BranchPoint | None) -> Callable[[], None]:
    """A function that deletes the state that the task continued from, if no other needs it."""
    return lambda: release(context.run_dir, point.segment) if point else None


def _train(
    context: Training,
    model: nn.Module,
    stream: PackedStream,
    ranks: Ranks,
    segment: Segment,
    config: TrainConfig | None = None,
    watchers: Sequence[Watcher] = (),
) -> TrainResult:
    spec, precision = context.spec, context.spec.sequences.precision
    config = config or spec.training.train
    engine = resolve_engine(config, precision, ranks.device.type == "cuda")
    setup = RunSetup(engine, precision, spec.seed, ranks, context.directory, context.key)
    total = stream.n_tokens if segment.steps is None else segment.steps * config.global_batch
    hooks = Hooks(
        stop=context.stop,
        progress=lambda line: _report(context, line, total),
        watchers=watchers,
        lead=context.lead,
    )
    return train(model, stream, config, setup, hooks, segment)


def _size(model: nn.Module, stream: PackedStream) -> dict[str, Any]:
    """Sizes, counted before an engine partitions the weights, as ZeRO 3 does."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_token": model_flops_per_token(model, stream.sequence_length),
    }


def _record(ranks: Ranks, result: TrainResult) -> dict[str, Any]:
    return {
        "tokens": result.tokens,
        "steps": result.steps,
        "train_loss": result.train_loss,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_bytes": result.peak_memory_bytes,
        "world_size": ranks.world_size,
        "device": str(ranks.device.type),
        "device_name": device_name(ranks),
        "device_hours": result.device_hours,
        "mfu": result.mfu,
        "skipped_steps": result.skipped_steps,
        "overflow_steps": result.overflow_steps,
    }


def _report(context: Training, line: dict[str, Any], total: int) -> None:
    if context.from_step is None:
        context.from_step = line["step"] - 1
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    note = f"loss {loss}, {format_rate(line['tokens_per_second'])} tokens/s"
    context.progress(line["tokens"], total, "tokens", note)
