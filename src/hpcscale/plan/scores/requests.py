"""The scores that the methods of a sweep ask for, each computed once."""

from __future__ import annotations

from collections.abc import Sequence

from hpcscale.plan.graph import AnyTask
from hpcscale.plan.scores.perplexity import perplexity_scores
from hpcscale.plan.scores.plugin import plugin_scores
from hpcscale.plan.scores.tracin import Proxy, influence_scores, proxy_task
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import InfluenceRequest
from hpcscale.selection.method import ScoreRequest
from hpcscale.selection.scorers import load_scorer


def score_tasks(shared: Shared, requests: Sequence[ScoreRequest | None]) -> list[AnyTask | None]:
    """The task of the merged scores for each request; equal requests have equal tasks.

    Raises ConfigError for a scorer that is not installed, or for wrong parameters.
    """
    of_influence = {
        index: InfluenceRequest.model_validate(request.params)
        for index, request in enumerate(requests)
        if request is not None and request.kind == "tracin"
    }
    proxy: Proxy | None = None
    if of_influence:
        captures = any(request.way == "capture" for request in of_influence.values())
        proxy = proxy_task(shared, captures)
    found: list[AnyTask | None] = []
    for index, request in enumerate(requests):
        if request is None:
            found.append(None)
        elif proxy is not None and index in of_influence:
            found.append(influence_scores(shared, of_influence[index], proxy))
        elif request.kind == "perplexity":
            found.append(perplexity_scores(shared, request))
        else:
            found.append(plugin_scores(shared, request, load_scorer(request)))
    return found
