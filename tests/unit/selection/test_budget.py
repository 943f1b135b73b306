from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcscale.config.sweep import MethodConfig
from hpcscale.errors import ConfigError, DataError
from hpcscale.selection.budget import fill_budget, read_selection, write_selection
from hpcscale.selection.method import Candidates
from hpcscale.selection.registry import load_method


@pytest.fixture
def pool() -> Candidates:
    rng = np.random.default_rng(0)
    return Candidates(
        ids=rng.integers(0, 2**63, 500, dtype=np.uint64),
        lengths=rng.integers(5, 80, 500),
        domains=np.zeros(500, np.uint16),
        domain_names=("a",),
        scores=rng.normal(4, 1, 500),
        text=lambda row: f"text {row}",
    )


def method(**params: object):  # type: ignore[no-untyped-def]
    return load_method(MethodConfig(**{"name": "m", **params}))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [1, 7, 100, 12_345])
def test_the_budget_is_met_to_the_token(pool: Candidates, budget: int) -> None:
    kept = method(method="random").keep(pool, budget, 0)
    selection = fill_budget(kept, pool.ids, pool.lengths, budget, 0)
    assert selection.n_tokens == selection.unique_tokens == budget
    assert (selection.tokens > 0).all()
    assert (selection.tokens[:-1] == pool.lengths[selection.positions[:-1]]).all()


def test_a_larger_budget_starts_with_the_smaller_ones_documents(pool: Candidates) -> None:
    random = method(method="random")
    small, large = (
        fill_budget(random.keep(pool, b, 3), pool.ids, pool.lengths, b, 3) for b in (1000, 9000)
    )
    count = len(small.positions)
    assert (large.positions[:count] == small.positions).all()


def test_seeds_differ(pool: Candidates) -> None:
    random = method(method="random")
    assert (random.keep(pool, 1, 0) != random.keep(pool, 1, 1)).any()


def test_a_pool_too_small_says_by_how_much_and_what_to_do(pool: Candidates) -> None:
    total = int(pool.lengths.sum())
    with pytest.raises(DataError, match=r"cell x needs .*train.epochs: 2"):
        fill_budget(np.arange(500), pool.ids, pool.lengths, total + 1, 0, cell="cell x")


def test_repeats_are_recorded_and_reordered(pool: Candidates) -> None:
    total = int(pool.lengths.sum())
    selection = fill_budget(np.arange(500), pool.ids, pool.lengths, 2 * total + 9, 0, epochs=3)
    assert selection.n_tokens == 2 * total + 9
    assert selection.unique_tokens == total
    assert selection.epoch[-1] == 2
    first, second = selection.positions[:500], selection.positions[500:1000]
    assert (first != second).any()
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize(
    ("keep", "low", "high"), [("low", 0, 30), ("middle", 35, 65), ("high", 70, 100)]
)
def test_perplexity_keeps_the_named_part(
    pool: Candidates, keep: str, low: float, high: float
) -> None:
    assert pool.scores is not None
    kept = method(method="perplexity", keep=keep, rate=0.3).keep(pool, 1, 0)
    ranks = np.argsort(np.argsort(pool.scores))[kept]
    assert len(kept) == 150
    assert ranks.min() == round(5 * low)
    assert ranks.max() == round(5 * high) - 1
    explicit = method(method="perplexity", percentiles=[low, high]).keep(pool, 1, 0)
    assert (explicit == kept).all()


def test_absolute_bounds_are_perplexities(pool: Candidates) -> None:
    assert pool.scores is not None
    kept = method(method="perplexity", perplexity=[30, 90]).keep(pool, 1, 0)
    inside = (np.exp(pool.scores) >= 30) & (np.exp(pool.scores) <= 90)
    assert sorted(kept) == sorted(np.flatnonzero(inside))
    with pytest.raises(DataError, match="no document of the pool has a perplexity"):
        method(method="perplexity", perplexity=[1e6, 2e6]).keep(pool, 1, 0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "randm"}, "did you mean `random`"),
        ({"method": "perplexity"}, "one keep rule"),
        ({"method": "perplexity", "keep": "low"}, "one keep rule"),
        ({"method": "perplexity", "percentiles": [60, 40]}, "must rise"),
        ({"method": "perplexity", "percentiles": [0, 140]}, "between 0 and 100"),
        ({"method": "perplexity", "keep": "low", "rat": 0.3}, "did you mean `rate`"),
        ({"method": "random", "rate": 0.3}, "its parameters: none"),
        ({"method": "perplexity", "keep": "low", "rate": 1.5}, "`rate`"),
    ],
)
def test_wrong_parameters_name_the_method_and_the_way_out(
    params: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**params)


def test_a_selection_reads_back(pool: Candidates, tmp_path: Path) -> None:
    selection = fill_budget(np.arange(500), pool.ids, pool.lengths, 999, 0)
    write_selection(tmp_path / "s.parquet", selection, pool.ids)
    ids, tokens = read_selection(tmp_path / "s.parquet")
    assert (ids == pool.ids[selection.positions]).all()
    assert tokens == 999
