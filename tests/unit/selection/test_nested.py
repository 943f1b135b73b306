"""Each method tells whether larger budgets continue where smaller ones stop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hpcscale.config.sweep import MethodConfig
from hpcscale.selection.budget import fill_budget
from hpcscale.selection.method import Candidates, NoParams, Positions, SelectionMethod
from hpcscale.selection.registry import load_method
from hpcscale.selection.tracin import Tracin, TracinParams

#: The pool holds about 21k tokens: the last ones take several passes over a share of it.
BUDGETS = [500, 1_111, 4_000, 6_000, 9_000, 15_000]
METHODS: list[dict[str, Any]] = [
    {"method": "random"},
    {"method": "perplexity", "keep": "middle", "rate": 0.3},
    {"method": "perplexity", "perplexity": [20, 300]},
    {"method": "tracin", "rate": 0.3},
    {"method": "tracin", "rate": 0.3, "keep": "bottom"},
    {"method": "tracin", "percentiles": [20, 60]},
    {"method": "tracin"},
    {"method": "tracin", "temperature": 0.5},
    {"method": "tracin", "rate": 0.3, "random": 0.2},
]


@pytest.fixture(scope="module")
def pool() -> Candidates:
    rng = np.random.default_rng(0)
    return Candidates(
        ids=rng.integers(0, 2**63, 500, dtype=np.uint64),
        lengths=rng.integers(5, 80, 500),
        domains=np.zeros(500, np.uint16),
        domain_names=("a",),
        scores=rng.normal(4, 1, 500),
        text=lambda row: "",
    )


def stream(pool: Candidates, params: dict[str, Any], budget: int, seed: int) -> list[int]:
    """The document behind each token, in training order."""
    method = load_method(MethodConfig(name="m", **params))
    kept = method.keep(pool, budget, seed)
    chosen = fill_budget(kept, pool.ids, pool.lengths, budget, seed, epochs=8)
    documents: list[int] = np.repeat(chosen.positions, chosen.tokens).tolist()
    return documents


@pytest.mark.parametrize("params", METHODS, ids=str)
def test_a_method_knows_whether_budgets_are_nested(
    pool: Candidates, params: dict[str, Any]
) -> None:
    said = load_method(MethodConfig(name="m", **params)).nesting_problem()
    streams = [stream(pool, params, budget, seed=3) for budget in BUDGETS]
    nested = all(large[: len(small)] == small for small, large in itertools.pairwise(streams))
    assert nested == (said is None)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"rate": 0.3}, None),
        ({"percentiles": (40, 60)}, None),
        ({"keep": "top"}, "for example `rate: 0.3`"),
        ({}, "for example `rate: 0.3`"),
        ({"temperature": 1.0}, "for example `rate: 0.3`"),
        ({"rate": 0.3, "random": 0.2}, "drop it"),
    ],
)
def test_a_ranking_that_is_not_nested_says_what_would_be(
    params: dict[str, Any], said: str | None
) -> None:
    reason = Tracin(TracinParams(**params)).nesting_problem()
    assert reason is None if said is None else said in str(reason)


class Silent(SelectionMethod):
    def keep(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        return np.arange(len(candidates.ids))


class Former(Silent):
    """A plug-in with the name of the method until 0.1.0."""

    def why_not_nested(self) -> str | None:
        return "it shuffles"


def test_a_plug_in_may_answer_by_the_former_name() -> None:
    assert "`nesting_problem`" in str(Silent(NoParams()).nesting_problem())
    assert Former(NoParams()).nesting_problem() == "it shuffles"
