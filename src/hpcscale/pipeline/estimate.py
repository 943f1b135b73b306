"""What a sweep will cost: tokens, FLOPs, and GPU-hours where the GPU is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hpcscale.config.model import ModelConfig, is_local
from hpcscale.config.sweep import SweepConfig
from hpcscale.pipeline.graph import Task
from hpcscale.pipeline.trunk import trained_tokens
from hpcscale.train.memory import ModelSize

#: Dense bf16 peak, FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {"V100": 125e12, "A40": 149.7e12, "A100": 312e12, "L40S": 362e12,
              "H100": 989e12, "H200": 989e12, "MI250X": 383e12, "MI300X": 1307e12}  # fmt: skip
#: The share of the peak that a small model's training commonly reaches; an assumption, not a
#: measurement, and printed as one.
ASSUMED_MFU = 0.35
#: Radford et al. 2019, embeddings included once: layers, width, parameters.
_GPT2 = {"gpt2": (12, 768, 124.4e6), "gpt2-medium": (24, 1024, 354.8e6),
         "gpt2-large": (36, 1280, 774.0e6), "gpt2-xl": (48, 1600, 1557.6e6)}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Of the tasks about to start. flops and gpu_hours are None where they cannot be known."""

    train_tokens: int
    score_tokens: int
    gradient_tokens: int
    eval_tokens: int
    flops: float | None
    gpu_hours: float | None
    gpu_type: str | None


def estimate(config: SweepConfig, tasks: list[Task], gpu_type: str | None) -> Estimate:
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
    peak = PEAK_FLOPS.get((gpu_type or "").upper())
    hours = None if flops is None or peak is None else flops / (peak * ASSUMED_MFU) / 3600
    return Estimate(trained, scored, measured, evaluated, flops, hours, gpu_type)


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
    """Forward and backward: 6 N + 12 L d T (Chowdhery et al. 2022, appendix B).

    None for a model whose size is not known before it is loaded.
    """
    size = model_size(model, vocabulary)
    if size is None:
        return None
    return 6 * size.parameters + 12.0 * size.layers * size.width * sequence_length


def model_size(model: ModelConfig, vocabulary: int | None) -> ModelSize | None:
    """None for a model whose size is not known before it is loaded."""
    if model.scratch is not None:
        layers, width = model.scratch.layers, model.scratch.width
        return _sized(layers, width, vocabulary or 50_257)
    assert model.source is not None
    if model.source in _GPT2:
        layers, width, parameters = _GPT2[model.source]
        return ModelSize(layers, width, 50_257, parameters)
    if is_local(model.source):
        return _size_of_directory(Path(model.source).expanduser() / "config.json")
    return None


def _sized(layers: int, width: int, vocabulary: int) -> ModelSize:
    return ModelSize(layers, width, vocabulary, 12.0 * layers * width**2 + vocabulary * width)


def _size_of_directory(path: Path) -> ModelSize | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    layers = config.get("n_layer") or config.get("num_hidden_layers")
    width = config.get("n_embd") or config.get("hidden_size")
    vocabulary = config.get("vocab_size")
    if not (layers and width and vocabulary):
        return None
    return _sized(int(layers), int(width), int(vocabulary))
