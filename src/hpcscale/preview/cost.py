"""The cost of a sweep: tokens, FLOPs, and GPU-hours where the GPU is known."""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.config.sweep import SweepConfig
from hpcscale.model.peaks import type_peak
from hpcscale.model.sizes import flops_per_token
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.kinds import Passes
from hpcscale.plan.scores.plugin import scorer_flops
from hpcscale.plan.specs import PretrainSpec, ProxySpec, ScorerSpec, TrainSpec, TrunkSpec
from hpcscale.rundir.spec import Spec

#: The share of the peak that a small model's training commonly reaches; an assumption, not a
#: measurement, and printed as one.
ASSUMED_MFU = 0.35


@dataclass(frozen=True)
class Estimate:
    """The cost of the tasks to start. flops and gpu_hours are None where they are unknown.

    hours_text: the hours as a phrase, or why they are unknown.
    """

    train_tokens: int
    score_tokens: int
    gradient_tokens: int
    eval_tokens: int
    flops: float | None
    gpu_hours: float | None
    hours_text: str


def estimate(
    config: SweepConfig, tasks: list[AnyTask], gpu_type: str | None, precision: str
) -> Estimate:
    """Training costs 6 FLOPs per parameter and token plus attention; a forward pass, a third.

    Gradients of documents cost as much as training on them.
    """
    counted = dict.fromkeys(Passes, 0.0)
    for task in tasks:
        counted[task.kind.passes] += _tokens(config, task)
    trained, scored = counted[Passes.TRAIN], counted[Passes.SCORE]
    measured = counted[Passes.GRADIENTS] + counted[Passes.DIRECT]
    evaluated = counted[Passes.EVALUATE]
    per_token = flops_per_token(config.model, config.tokenizer.train, config.data.sequence_length)
    flops = None
    if per_token is not None:
        flops = _sum(
            [
                per_token * (trained + measured + (scored + evaluated) / 3),
                *_of_scorers(tasks, config),
            ]
        )
    hours, hours_text = _gpu_hours(flops, gpu_type, precision)
    scored += counted[Passes.SCORER]
    return Estimate(
        round(trained), round(scored), round(measured), round(evaluated), flops, hours, hours_text
    )


def trained_tokens(spec: Spec) -> int:
    """Tokens that a training task trains on itself, without those of a trunk before it; 0 where
    its spec does not say."""
    if isinstance(spec, TrainSpec):
        return spec.budget - (spec.starts_at or 0)
    if isinstance(spec, TrunkSpec):
        return spec.tokens - spec.starts_at
    assert isinstance(spec, (ProxySpec, PretrainSpec))
    return spec.tokens or 0


def _tokens(config: SweepConfig, task: AnyTask) -> float:
    """Tokens that a task passes through a model."""
    spec, data = task.spec, config.data
    pool, query = data.pool.tokens or 0, (data.query.tokens if data.query else 0) or 0
    match task.kind.passes:
        case Passes.NONE:
            return 0
        case Passes.TRAIN:
            base = (data.base.tokens if data.base else 0) or 0
            return trained_tokens(spec) or (base if isinstance(spec, PretrainSpec) else 0)
        case Passes.SCORE | Passes.SCORER:
            return pool / _shards(task)
        case Passes.GRADIENTS:
            (store,) = task.inputs["store"]
            return (pool if store.spec.role == "pool" else query) / _shards(task)
        case Passes.DIRECT:
            return pool / _shards(task) + query
        case Passes.EVALUATE:
            return data.eval.tokens or 0


def _shards(task: AnyTask) -> int:
    """How many shards the task's input is divided into."""
    return int(task.spec.shard[1])


def _of_scorers(tasks: list[AnyTask], config: SweepConfig) -> list[float | None]:
    """FLOPs of scorers of other packages, as these report them."""
    return [
        scorer_flops(task.spec, _tokens(config, task))
        for task in tasks
        if isinstance(task.spec, ScorerSpec)
    ]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


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
