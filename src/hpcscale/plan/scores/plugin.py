"""The tasks for the scores of another package's scorer: shards of the pool, and their merge."""

from __future__ import annotations

from hpcscale.config.fingerprint import fingerprint
from hpcscale.plan.graph import AnyTask, Inputs, Task
from hpcscale.plan.kinds import MERGE_SCORES, SCORER
from hpcscale.plan.scores.perplexity import scoring_model
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import MergeScoresSpec, ScorerSpec
from hpcscale.selection.method import ScoreRequest
from hpcscale.selection.scorer import Scorer
from hpcscale.selection.scorers import load_scorer


def scorer_flops(spec: ScorerSpec, tokens: float) -> float | None:
    """FLOPs of scoring documents of ``tokens`` in all; None where the scorer does not know them."""
    scorer = load_scorer(ScoreRequest(spec.scorer, dict(spec.scorer_params)))
    return scorer.flops(round(tokens))


def plugin_scores(shared: Shared, request: ScoreRequest, scorer: Scorer) -> AnyTask:
    """The merged scores; methods that request one scorer with equal parameters share the tasks."""
    params = scorer.params.deciding()
    source = scorer.model()
    inputs: Inputs = {
        "pool": (shared.pool,),
        "tokenizer": (shared.tokenizer,),
        **({} if source is None else {"model": (scoring_model(shared, source),)}),
    }
    folder = f"scores/{request.kind}" + (f"-{fingerprint(params)[:6]}" if params else "")
    count = shared.config.resources.of("score").shards
    shards = tuple(
        Task(
            f"{folder}/shard-{index:05d}",
            SCORER,
            ScorerSpec(
                scorer=request.kind,
                scorer_version=scorer.version,
                scorer_params=params,
                shard=(index, count),
            ),
            inputs,
        )
        for index in range(count)
    )
    spec = MergeScoresSpec(scorer=request.kind, scorer_version=scorer.version, scorer_params=params)
    return Task(f"{folder}/merged", MERGE_SCORES, spec, {"shards": shards, **inputs})
