"""What a sweep will cost: tokens, FLOPs, and GPU-hours where the GPU is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcscale.config.model import ModelConfig, is_local
from hpcscale.config.sweep import SweepConfig
from hpcscale.model import flops as counted
from hpcscale.model.headers import Written, read_written
from hpcscale.model.peaks import type_peak
from hpcscale.plan.graph import Task
from hpcscale.plan.trunk import trained_tokens
from hpcscale.train.memory import ModelSize

#: The share of the peak that a small model's training commonly reaches; an assumption, not a
#: measurement, and printed as one.
ASSUMED_MFU = 0.35
#: Radford et al. 2019, embeddings included once: layers, width, parameters.
_GPT2 = {"gpt2": (12, 768, 124.4e6), "gpt2-medium": (24, 1024, 354.8e6),
         "gpt2-large": (36, 1280, 774.0e6), "gpt2-xl": (48, 1600, 1557.6e6)}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Of the tasks about to start. flops and gpu_hours are None where they cannot be known.

    hours_told: the hours in words, or why they are not known.
    """

    train_tokens: int
    score_tokens: int
    gradient_tokens: int
    eval_tokens: int
    flops: float | None
    gpu_hours: float | None
    hours_told: str


def estimate(
    config: SweepConfig, tasks: list[Task], gpu_type: str | None, precision: str
) -> Estimate:
    """Training costs 6 FLOPs a parameter and token plus attention, a forward pass a third.

    Gradients of documents cost as much as training on them.
    """
    budgets = [trained_tokens(t) for t in tasks if t.kind in ("train", "trunk")]
    budgets += [t.decides["tokens"] for t in tasks if t.kind == "proxy"]
    pretrain = [
        t.decides["tokens"] or (config.data.base and config.data.base.tokens) or 0
        for t in tasks
        if t.kind == "pretrain"
    ]
    pool, shards = config.data.pool.tokens or 0, [t for t in tasks if t.kind == "perplexity"]
    scored = round(sum(pool / t.decides["shard"][1] for t in shards))
    measured = round(sum(_measured_tokens(config, t) for t in tasks))
    evaluated = sum(t.kind == "evaluate" for t in tasks) * (config.data.eval.tokens or 0)
    trained = sum(budgets) + sum(pretrain)
    per_token = flops_per_token(config.model, config.tokenizer.train, config.data.sequence_length)
    trained_on = trained + measured + (scored + evaluated) / 3
    flops = None if per_token is None else per_token * trained_on
    hours, told = _gpu_hours(flops, gpu_type, precision)
    return Estimate(trained, scored, measured, evaluated, flops, hours, told)


def _gpu_hours(
    flops: float | None, gpu_type: str | None, precision: str
) -> tuple[float | None, str]:
    if gpu_type is None:
        return None, "GPU-hours unknown (the site profile names no gpu_type)"
    name, peak = type_peak(gpu_type, precision)
    if peak is None:
        return None, f"GPU-hours unknown (no {precision} peak of gpu_type {name} is known)"
    if flops is None:
        return None, "GPU-hours unknown"
    hours = flops / (peak * ASSUMED_MFU) / 3600
    return hours, (
        f"about {hours:.3g} GPU-hours on {name} at an assumed {ASSUMED_MFU:.0%} of its "
        f"{precision} peak"
    )


def _measured_tokens(config: SweepConfig, task: Task) -> float:
    """Tokens whose gradients a task takes."""
    query = config.data.query.tokens if config.data.query else 0
    if task.kind == "direct":
        return (config.data.pool.tokens or 0) / int(task.decides["shard"][1]) + (query or 0)
    if task.kind != "gradients":
        return 0
    of_pool = task.name.startswith("influence/pool")
    tokens: int = (config.data.pool.tokens if of_pool else query) or 0
    return tokens / int(task.decides["shard"][1])


def flops_per_token(
    model: ModelConfig, vocabulary: int | None, sequence_length: int
) -> float | None:
    """Forward and backward: 6 N + 12 L d T (model/flops.py).

    None for a model whose size is not known before it is loaded.
    """
    if written := _written(model):
        return counted.flops_per_token(written.matmul, written.attention, sequence_length)
    size = model_size(model, vocabulary)
    if size is None:
        return None
    return 6 * size.parameters + 12.0 * size.layers * size.width * sequence_length


def model_size(model: ModelConfig, vocabulary: int | None) -> ModelSize | None:
    """None for a model whose size is not known before it is loaded."""
    if model.scratch is not None:
        layers, width, vocabulary = model.scratch.layers, model.scratch.width, vocabulary or 50_257
        weights = 12.0 * layers * width**2 + vocabulary * width
        return ModelSize(layers, width, vocabulary, weights)
    assert model.source is not None
    if model.source in _GPT2:
        layers, width, parameters = _GPT2[model.source]
        return ModelSize(layers, width, 50_257, parameters)
    written = _written(model)
    if written is None:
        return None
    return ModelSize(written.layers, written.width, written.vocabulary, float(written.parameters))


def _written(model: ModelConfig) -> Written | None:
    """Of a directory; None for a hub id, a shape, and files that do not tell."""
    if model.source is None or model.source in _GPT2 or not is_local(model.source):
        return None
    return read_written(Path(model.source).expanduser())
