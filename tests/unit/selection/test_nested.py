"""Whether budgets go on where smaller ones stop is what each method says of itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hpcscale.config.sweep import MethodConfig
from hpcscale.selection.budget import fill_budget
from hpcscale.selection.method import Candidates
from hpcscale.selection.registry import load_method

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
    said = load_method(MethodConfig(name="m", **params)).why_not_nested()
    streams = [stream(pool, params, budget, seed=3) for budget in BUDGETS]
    nested = all(large[: len(small)] == small for small, large in itertools.pairwise(streams))
    assert nested == (said is None)
