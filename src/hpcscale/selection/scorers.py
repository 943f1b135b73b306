"""Find a scorer by the name that a method asks for."""

from __future__ import annotations

from hpcscale.plugins import checked, installed, load_class
from hpcscale.selection.method import ScoreRequest
from hpcscale.selection.scorer import Scorer

GROUP = "hpcscale.scorers"
#: Scores that the planner makes in stages of its own, without a scorer class.
BUILT_IN = ("perplexity", "tracin")


def load_scorer(request: ScoreRequest) -> Scorer:
    """The scorer with its parameters checked.

    Raises ConfigError for an unknown scorer, one that does not load, or wrong parameters.
    """
    known = (*BUILT_IN, *installed(GROUP))
    scorer: type[Scorer] = load_class(GROUP, request.kind, Scorer, "scorer", known)
    return scorer(checked(scorer.Params, request.params, f"the scorer `{request.kind}`"))
