"""Documents of a range of perplexity under a model, sampled at random from that range.

The keep rule of Marion et al., "When Less is More" (arXiv 2309.04564): the low, middle or high
part of the pool by perplexity, at a rate.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from hpcscale.config.types import Section
from hpcscale.data.order import document_order
from hpcscale.errors import DataError
from hpcscale.selection.method import Candidates, Positions, ScoreRequest, SelectionMethod

_CENTRES = {"low": 0.0, "middle": 0.5, "high": 1.0}


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Range = Annotated[tuple[float, float], BeforeValidator(_pair)]


class PerplexityParams(Section):
    """``keep`` and ``rate``, or explicit ``percentiles``, or explicit ``perplexity`` bounds."""

    pinned: ClassVar = frozenset({"keep", "rate", "percentiles", "perplexity", "model"})

    keep: Literal["low", "middle", "high"] | None = None
    rate: float | None = Field(default=None, gt=0, le=1)
    percentiles: Range | None = None
    perplexity: Range | None = None
    model: str = Field(default="base", description="`base`, a hub id or a directory")

    @model_validator(mode="after")
    def _one_rule(self) -> PerplexityParams:
        rules = [self.keep is not None, self.percentiles is not None, self.perplexity is not None]
        if sum(rules) != 1 or (self.keep is None) != (self.rate is None):
            raise ValueError(
                "give one keep rule: `keep: low|middle|high` with `rate: 0.3`, or "
                "`percentiles: [35, 65]`, or `perplexity: [20, 80]`"
            )
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(
                f"percentiles {list(self.percentiles)} must rise and lie between 0 and 100"
            )
        if self.perplexity and not 1 <= self.perplexity[0] < self.perplexity[1]:
            raise ValueError(f"perplexity bounds {list(self.perplexity)} must rise and start at 1")
        return self

    def percentile_range(self) -> tuple[float, float] | None:
        """The kept percentiles of documents, or None where bounds are absolute."""
        if self.keep is None or self.rate is None:
            return self.percentiles
        low = _CENTRES[self.keep] * (1 - self.rate)
        return 100 * low, 100 * (low + self.rate)


class Perplexity(SelectionMethod):
    """Keeps a range of the scores ``mean nll a token``; ties are ordered by document id."""

    Params = PerplexityParams

    def score_request(self) -> ScoreRequest:
        return ScoreRequest("perplexity", {"model": self.params.model})

    def kept_share(self) -> float | None:
        bounds = self.params.percentile_range()
        return None if bounds is None else (bounds[1] - bounds[0]) / 100

    def nesting_problem(self) -> None:
        return None

    def keep(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        assert candidates.scores is not None
        kept = self._in_range(candidates)
        order = document_order(candidates.ids[kept], seed)
        return kept[order]

    def _in_range(self, candidates: Candidates) -> Positions:
        nll = candidates.scores
        assert nll is not None
        bounds = self.params.percentile_range()
        if bounds is None:
            low, high = np.log(self.params.perplexity)
            kept = np.flatnonzero((nll >= low) & (nll <= high)).astype(np.int64)
            if not len(kept):
                raise DataError(
                    f"no document of the pool has a perplexity in {list(self.params.perplexity)}; "
                    f"the pool's lie between {np.exp(nll.min()):.4g} and {np.exp(nll.max()):.4g}"
                )
            return kept
        ranked = np.lexsort((candidates.ids, nll)).astype(np.int64)
        first, last = (round(len(ranked) * bound / 100) for bound in bounds)
        return ranked[first:last]
