"""What pretraining the base model, training a cell and a trunk's segment share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import read_json, write_json
from hpcscale.config.train import TrainConfig
from hpcscale.plan.trunk import release
from hpcscale.train.zero import resolve_engine
from hpcscale.units import format_rate
from hpcscale.worker.branch import BranchPoint, branch_point, shares
from hpcscale.worker.context import Context, StepResult

if TYPE_CHECKING:
    from torch import nn

    from hpcscale.data.packing import PackedStream
    from hpcscale.train.distributed import Ranks
    from hpcscale.train.loop import TrainResult
    from hpcscale.train.watch import Watcher

MODEL = "model"
RECORD = "record.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
ENGINE = "engine.json"


def selected_stream(context: Context) -> tuple[PackedStream, dict[str, Any]]:
    """What a cell trains on, and what its selection says of it."""
    from hpcscale.data.packing import PackedStream
    from hpcscale.data.store import TokenStore
    from hpcscale.selection.budget import read_selection

    decides = context.decides
    store = TokenStore.open(context.input("pool") / "store")
    selected = context.input("selection")
    ids, tokens = read_selection(selected / "selection.parquet")
    stream = PackedStream(
        store, store.index_of(ids), tokens, decides["sequence_length"], decides["packing"]
    )
    return stream, read_json(selected / "selection.json")


def train_and_save(
    context: Context,
    model: nn.Module,
    stream: PackedStream,
    seed: int,
    ranks: Ranks,
    facts: dict[str, Any],
    watcher: Watcher | None = None,
) -> StepResult:
    """Train ``model`` on ``stream``, save it in Hugging Face format, and record how it went.

    A run that is watched is there for what its watcher writes, and its model is not saved.
    """
    from hpcscale.model.build import save_model

    point, size = branch_point(context, stream), _size(model, stream)
    result = _train(context, model, stream, seed, ranks, point, watcher=watcher)
    record = facts | _record(ranks, result) | size | shares(point, result)
    out = context.directory / MODEL
    if ranks.rank == 0:
        if watcher is None:
            save_model(model, out, result.weights)
        write_json(context.directory / RECORD, record)
    ranks.barrier()
    saved = [] if watcher else [f"{MODEL}/{file.name}" for file in out.iterdir()]
    # The model is what later stages read; the training state has then served its purpose.
    return StepResult(
        [RECORD, METRICS, ENGINE, *saved],
        record,
        scrap=(CHECKPOINTS,),
        afterwards=_releasing(context, point),
    )


def train_segment(
    context: Context, model: nn.Module, stream: PackedStream, ranks: Ranks
) -> StepResult:
    """Train ``model`` on the tokens of a trunk's segment, and keep the state that it ends in."""
    from hpcscale.train.tag_files import tags_in

    decides, folder = context.decides, context.directory / CHECKPOINTS
    point, size = branch_point(context, stream), _size(model, stream)
    steps = decides["tokens"] // decides["global_batch"]
    result = _train(context, model, stream, decides["seed"], ranks, point, steps=steps)
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
        scrap=tuple(f"{CHECKPOINTS}/{name}" for name in folders if name != tag),
        afterwards=_releasing(context, point),
    )


def _releasing(context: Context, point: BranchPoint | None) -> Callable[[], None]:
    """What deletes the state that a task went on from, if no other waits for it."""
    return lambda: release(context.run_dir, point.segment) if point else None


def _train(
    context: Context, model: nn.Module, stream: PackedStream, seed: int, ranks: Ranks,
    point: BranchPoint | None, watcher: Watcher | None = None, steps: int | None = None,
) -> TrainResult:  # fmt: skip
    from hpcscale.train.loop import train

    decides, config = context.decides, TrainConfig(**context.params["train"])
    total = stream.n_tokens if steps is None else decides["tokens"]
    return train(
        model,
        stream,
        config,
        engine=resolve_engine(config, decides["precision"], ranks.device.type == "cuda"),
        precision=decides["precision"],
        seed=seed,
        ranks=ranks,
        out=context.directory,
        key=context.key,
        stop=context.stop,
        progress=lambda line: _report(context, line, total),
        lead=context.lead,
        watcher=watcher,
        trunk=point.tag if point else None,
        steps=steps,
    )


def _size(model: nn.Module, stream: PackedStream) -> dict[str, Any]:
    """Counted before an engine takes the weights apart, as ZeRO 3 does."""
    from hpcscale.model.flops import model_flops_per_token

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_token": model_flops_per_token(model, stream.sequence_length),
    }


def _record(ranks: Ranks, result: TrainResult) -> dict[str, Any]:
    from hpcscale.train.distributed import device_name

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


def _report(context: Context, line: dict[str, Any], total: int) -> None:
    if context.from_step is None:
        context.from_step = line["step"] - 1
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    note = f"loss {loss}, {format_rate(line['tokens_per_second'])} tokens/s"
    context.progress(line["tokens"], total, "tokens", note)
