"""What a sweep will cost: tokens, FLOPs, and GPU-hours where the GPU is known."""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.config.model import ModelConfig
from hpcscale.config.sweep import SweepConfig
from hpcscale.pipeline.graph import Task

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
    eval_tokens: int
    flops: float | None
    gpu_hours: float | None
    gpu_type: str | None


def estimate(config: SweepConfig, tasks: list[Task], gpu_type: str | None) -> Estimate:
    """Training costs 6 FLOPs a parameter and token plus attention, a forward pass a third."""
    budgets = [t.decides["budget"] for t in tasks if t.kind == "train"]
    pretrain = [
        t.decides["tokens"] or (config.data.base and config.data.base.tokens) or 0
        for t in tasks
        if t.kind == "pretrain"
    ]
    pool, shards = config.data.pool.tokens or 0, [t for t in tasks if t.kind == "perplexity"]
    scored = round(sum(pool / t.decides["shard"][1] for t in shards))
    evaluated = sum(t.kind == "evaluate" for t in tasks) * (config.data.eval.tokens or 0)
    trained = sum(budgets) + sum(pretrain)
    per_token = flops_per_token(config.model, config.tokenizer.train, config.data.sequence_length)
    flops = None if per_token is None else per_token * (trained + (scored + evaluated) / 3)
    peak = PEAK_FLOPS.get((gpu_type or "").upper())
    hours = None if flops is None or peak is None else flops / (peak * ASSUMED_MFU) / 3600
    return Estimate(trained, scored, evaluated, flops, hours, gpu_type)


def flops_per_token(
    model: ModelConfig, vocabulary: int | None, sequence_length: int
) -> float | None:
    """Forward and backward: 6 N + 12 L d T (Chowdhery et al. 2022, appendix B).

    None for a model whose size is not known before it is loaded.
    """
    if model.scratch is not None:
        layers, width = model.scratch.layers, model.scratch.width
        parameters = 12.0 * layers * width**2 + (vocabulary or 50_257) * width
    elif model.source in _GPT2:
        layers, width, parameters = _GPT2[model.source]
    else:
        return None
    return 6 * parameters + 12.0 * layers * width * sequence_length
