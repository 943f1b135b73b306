"""Documents by their TracIn influence on the query set (Pruthi et al. 2020, arXiv 2002.08484)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from hpcscale.config.types import Section
from hpcscale.data.order import document_order, keyed_hash
from hpcscale.errors import DataError
from hpcscale.selection.method import Candidates, Positions, ScoreRequest, SelectionMethod
from hpcscale.selection.perplexity import Range

#: Keys the noise of a temperature apart from the order of documents under the same seed.
_NOISE = 0x6D75
#: Strategies by their names in a sweep file, and the ``way`` that each is in keys.
_WAYS = {"stored": "dump", "on-the-fly": "direct", "during-training": "capture"}


def _sorted_weights(value: object) -> object:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


class TracinParams(Section):
    """How influence is measured, and which part of the ranking is kept."""

    pinned: ClassVar = frozenset(
        set(
            (
                "way preconditioner normalise aggregate query_weights keep rate percentiles "
                "temperature random"
            ).split()
        )
    )

    way: Literal["dump", "direct", "capture"] = "dump"
    preconditioner: Literal["none", "adam"] = "none"
    normalise: Literal["none", "cosine"] = "cosine"
    aggregate: Literal["mean", "domain", "max", "self"] = "mean"
    query_weights: Annotated[dict[str, float], BeforeValidator(_sorted_weights)] = Field(default={})

    keep: Literal["top", "bottom"] | None = None
    rate: float | None = Field(default=None, gt=0, le=1)
    percentiles: Range | None = None
    temperature: float | None = Field(default=None, gt=0)
    random: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _strategy_names_a_way(cls, value: Any) -> Any:
        """``strategy`` is the clearer name of ``way``, which keys and older files have."""
        if not isinstance(value, dict) or "strategy" not in value:
            return value
        strategy = value["strategy"]
        if "way" in value:
            raise ValueError("`strategy` and `way` are two names of one setting; give one")
        if strategy not in _WAYS:
            raise ValueError(f"strategy {strategy!r} is unknown; write {', '.join(_WAYS)}")
        return {k: v for k, v in value.items() if k != "strategy"} | {"way": _WAYS[strategy]}

    @model_validator(mode="after")
    def _one_rule(self) -> TracinParams:
        if self.percentiles and (self.keep or self.rate or self.temperature):
            raise ValueError("`percentiles` is a rule of its own: drop keep, rate and temperature")
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(
                f"percentiles {list(self.percentiles)} must rise and lie between 0 and 100"
            )
        if self.rate and self.temperature:
            raise ValueError(
                "`rate` samples from the best part and `temperature` from all of the pool; give one"
            )
        if any(not (weight >= 0 and np.isfinite(weight)) for weight in self.query_weights.values()):
            raise ValueError(f"query_weights {self.query_weights} must be 0 or more")
        return self

    @model_validator(mode="after")
    def _measures_fit(self) -> TracinParams:
        if self.way == "direct" and self.aggregate == "max":
            raise ValueError(
                "aggregate `max` needs a score for every query, which `way: direct` lacks; "
                "write `way: dump`, or aggregate `mean` or `domain`"
            )
        if self.aggregate == "self":
            if self.normalise == "cosine" and "normalise" in self.model_fields_set:
                raise ValueError("a document's cosine with itself is 1; drop `normalise: cosine`")
            if self.query_weights:
                raise ValueError("aggregate `self` has no queries to weigh; drop query_weights")
            if self.way == "capture" and self.preconditioner == "adam":
                raise ValueError(
                    "captured gradients are not preconditioned, so aggregate `self` cannot "
                    "be Adam-aware; write `way: dump`, or drop `preconditioner: adam`"
                )
        return self

    def measure(self) -> dict[str, object]:
        """The parameters that decide the scores, JSON-ready."""
        names = ("way", "preconditioner", "normalise", "aggregate", "query_weights")
        values = {name: getattr(self, name) for name in names}
        return values | ({"normalise": "none"} if self.aggregate == "self" else {})


class Tracin(SelectionMethod):
    """Keeps the documents of highest (or lowest) influence, to the budget or a share of the pool.

    Training takes the chosen documents in the seeded order of ``random``, not best first.
    """

    Params = TracinParams

    def score_request(self) -> ScoreRequest:
        return ScoreRequest("tracin", self.params.measure())

    def kept_share(self) -> float | None:
        params: TracinParams = self.params
        if params.way == "capture":
            return None
        if params.percentiles:
            return (params.percentiles[1] - params.percentiles[0]) / 100
        return params.rate or 1.0

    def nesting_problem(self) -> str | None:
        params: TracinParams = self.params
        if params.random:
            return f"`random: {params.random}` draws from what each budget leaves over; drop it"
        if not (params.rate or params.percentiles):
            return (
                "it fills each budget from the best and orders only these; keep a share of the "
                "pool, for example `rate: 0.3`"
            )
        return None

    def keep(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        params: TracinParams = self.params
        ranked = self._ranked(candidates, seed)
        if params.rate or params.percentiles:
            # A share of the pool, sampled: nested over budgets, paired with `random` over seeds.
            ranked = ranked[document_order(candidates.ids[ranked], seed)]
        at_random = round(budget * params.random)
        best = _prefix(ranked, candidates.lengths, budget - at_random)
        chosen = best
        if at_random:
            rest = np.setdiff1d(np.arange(len(candidates.ids)), best, assume_unique=True)
            drawn = rest[document_order(candidates.ids[rest], seed)]
            chosen = np.concatenate([best, _prefix(drawn, candidates.lengths, at_random)])
        return chosen[document_order(candidates.ids[chosen], seed)]

    def _ranked(self, candidates: Candidates, seed: int) -> Positions:
        """The rows that may be kept, best first; ties are ordered by document id."""
        params: TracinParams = self.params
        assert candidates.scores is not None
        scored = np.flatnonzero(np.isfinite(candidates.scores))
        if not len(scored):
            raise DataError(
                "no document of the pool has an influence score; with `way: capture`, raise "
                "influence.proxy.tokens"
            )
        scores, ids = candidates.scores[scored], candidates.ids[scored]
        if params.temperature:
            scores = _gumbel(scores, ids, params, seed)
        # Percentiles count from the lowest influence up.
        rising = params.keep == "bottom" or params.percentiles is not None
        ranked = scored[np.lexsort((ids, scores if rising else -scores))].astype(np.int64)
        low, high = params.percentiles or (0.0, 100 * (params.rate or 1.0))
        return ranked[round(len(ranked) * low / 100) : round(len(ranked) * high / 100)]


def _gumbel(
    scores: npt.NDArray[np.float64],
    ids: npt.NDArray[np.uint64],
    params: TracinParams,
    seed: int,
) -> npt.NDArray[np.float64]:
    """Scores in standard deviations over the temperature, plus Gumbel noise: the k largest are a
    sample without replacement from their softmax (Kool et al. 2019, arXiv 1903.06059)."""
    assert params.temperature is not None
    spread = scores.std()
    standard = (scores - scores.mean()) / (spread if spread > 0 else 1.0) / params.temperature
    uniform = (keyed_hash(ids, seed, _NOISE).astype(np.float64) + 0.5) / 2.0**64
    noise = -np.log(-np.log(np.clip(uniform, 1e-300, 1 - 1e-16)))
    noisy: npt.NDArray[np.float64] = standard + (-noise if params.keep == "bottom" else noise)
    return noisy


def _prefix(rows: Positions, lengths: npt.NDArray[np.int64], tokens: int) -> Positions:
    """The first rows that hold ``tokens`` tokens, or all."""
    count = int(np.searchsorted(np.cumsum(lengths[rows]), tokens)) + 1
    return rows[: count if tokens > 0 else 0]
