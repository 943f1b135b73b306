"""Finding a scorer by the name that a method asks for."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from hpcscale.errors import ConfigError
from hpcscale.selection.method import ScoreRequest
from hpcscale.selection.scorer import Scorer

GROUP = "hpcscale.scorers"
#: Scorers that the planner makes of several stages.
BUILT_IN = ("perplexity", "tracin")


@cache
def available_scorers() -> dict[str, EntryPoint]:
    """Scorers of installed packages by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def load_scorer(request: ScoreRequest) -> Scorer:
    """The scorer with its parameters checked.

    Raises ConfigError for an unknown scorer, one that does not load, or wrong parameters.
    """
    points = available_scorers()
    if request.kind not in points:
        raise ConfigError(
            f"there is no scorer `{request.kind}`; a method may ask for: "
            f"{', '.join((*BUILT_IN, *points))}"
        )
    point = points[request.kind]
    try:
        scorer = point.load()
    except Exception as error:
        raise ConfigError(
            f"the scorer `{request.kind}` ({point.value}) does not load: {error!r}"
        ) from error
    if not (isinstance(scorer, type) and issubclass(scorer, Scorer)):
        raise ConfigError(f"the scorer `{request.kind}`: {point.value} is not a Scorer")
    try:
        return scorer(scorer.Params.model_validate(request.params))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"the scorer `{request.kind}`: `{key}`: {message}") from None
