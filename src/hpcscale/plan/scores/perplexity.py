"""The tasks for ``perplexity`` scores: shards of the pool, and their merge."""

from __future__ import annotations

from pathlib import Path

from hpcscale.plan.graph import AnyTask, Task
from hpcscale.plan.kinds import MERGE_PERPLEXITY, PERPLEXITY
from hpcscale.plan.models import fetch_task
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import MergePerplexitySpec, PerplexitySpec
from hpcscale.selection.method import ScoreRequest


def scoring_model(shared: Shared, source: str) -> AnyTask:
    """The task of the model that scores; the base model's for ``base`` or for its own source.

    source: ``base``, a hub id or a directory.
    """
    if source in ("base", shared.config.model.source):
        return shared.base
    return fetch_task("models/scorer", source, None, shared.sources)


def perplexity_scores(shared: Shared, request: ScoreRequest) -> AnyTask:
    source = str(request.params["model"])
    inputs = {
        "model": (scoring_model(shared, source),),
        "pool": (shared.pool,),
        "tokenizer": (shared.tokenizer,),
    }
    folder = f"scores/perplexity-{'base' if source == 'base' else Path(source).name}"
    count = shared.config.resources.of("score").shards
    shards = tuple(
        Task(
            f"{folder}/shard-{index:05d}",
            PERPLEXITY,
            PerplexitySpec(sequences=shared.sequences, shard=(index, count)),
            inputs,
        )
        for index in range(count)
    )
    assert PERPLEXITY.version is not None
    spec = MergePerplexitySpec(sequences=shared.sequences, scored=PERPLEXITY.version)
    return Task(f"{folder}/merged", MERGE_PERPLEXITY, spec, {"shards": shards, **inputs})
