"""What pretraining the base model and training a cell share."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import write_json
from hpcscale.config.train import TrainConfig
from hpcscale.pipeline.context import Context, StepResult
from hpcscale.train.zero import resolve_engine
from hpcscale.units import format_rate

if TYPE_CHECKING:
    from torch import nn

    from hpcscale.data.packing import PackedStream
    from hpcscale.train.distributed import Ranks
    from hpcscale.train.watch import Watcher

MODEL = "model"
RECORD = "record.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
ENGINE = "engine.json"


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
    from hpcscale.model.flops import model_flops_per_token
    from hpcscale.train.loop import train

    decides, config = context.decides, TrainConfig(**context.params["train"])
    result = train(
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
        progress=lambda line: _report(context, line, stream.n_tokens),
        lead=context.lead,
        watcher=watcher,
    )
    out = context.directory / MODEL
    record = {
        **facts,
        "tokens": result.tokens,
        "steps": result.steps,
        "train_loss": result.train_loss,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_bytes": result.peak_memory_bytes,
        "world_size": ranks.world_size,
        "device": str(ranks.device.type),
        "device_name": _device_name(ranks),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_token": model_flops_per_token(model.config, stream.sequence_length),
    }
    if ranks.rank == 0:
        if watcher is None:
            save_model(model, out, result.weights)
        write_json(context.directory / RECORD, record)
    ranks.barrier()
    saved = [] if watcher else [f"{MODEL}/{file.name}" for file in out.iterdir()]
    # The model is what later stages read; the training state has then served its purpose.
    return StepResult([RECORD, METRICS, ENGINE, *saved], record, scrap=(CHECKPOINTS,))


def _device_name(ranks: Ranks) -> str:
    """The GPU's model, or the processor's architecture."""
    import torch

    cuda = ranks.device.type == "cuda"
    return torch.cuda.get_device_name(ranks.device) if cuda else platform.machine()


def _report(context: Context, line: dict[str, Any], total: int) -> None:
    if context.from_step is None:
        context.from_step = line["step"] - 1
    note = f"loss {line['loss']:.4f}, {format_rate(line['tokens_per_second'])} tokens/s"
    context.progress(line["tokens"], total, "tokens", note)
