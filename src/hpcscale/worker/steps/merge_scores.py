"""The shards of a scorer of another package as one table."""

from __future__ import annotations

from hpcscale.plan.specs import MergeScoresSpec
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.scores import merge_shards


def run(context: Context[MergeScoresSpec]) -> StepResult:
    return merge_shards(context, f"the scorer `{context.spec.scorer}` must return finite numbers")
