"""What `tracin` keeps of a ranking, to the budget, in the seeded order."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hpcscale.config.sweep import MethodConfig
from hpcscale.data.order import document_order
from hpcscale.errors import ConfigError, DataError
from hpcscale.selection.budget import fill_budget
from hpcscale.selection.method import Candidates, SelectionMethod
from hpcscale.selection.registry import load_method
from hpcscale.selection.tracin import TracinParams

N = 2000


def method(**params: object) -> SelectionMethod:
    return load_method(MethodConfig(name="t", method="tracin", **params))


@pytest.fixture(scope="module")
def pool() -> Candidates:
    rng = np.random.default_rng(0)
    return Candidates(
        ids=rng.integers(0, 2**63, N).astype(np.uint64),
        lengths=rng.integers(5, 200, N),
        domains=np.zeros(N, np.uint16),
        domain_names=("all",),
        scores=rng.normal(size=N),
        text=lambda row: "",
    )


def chosen(pool: Candidates, budget: int, seed: int = 0, **params: object) -> np.ndarray:  # type: ignore[type-arg]
    return method(**params).keep(pool, budget, seed)


def test_the_best_documents_are_kept_to_the_token(pool: Candidates) -> None:
    rows = chosen(pool, 20_000)
    best = np.argsort(-pool.scores)  # type: ignore[operator]
    assert set(rows) == set(best[: len(rows)])
    without_last = pool.lengths[best[: len(rows) - 1]].sum()
    assert without_last < 20_000 <= pool.lengths[rows].sum()
    selection = fill_budget(rows, pool.ids, pool.lengths, 20_000, 0)
    assert selection.n_tokens == 20_000


def test_they_are_trained_on_in_the_seeded_order_and_not_best_first(pool: Candidates) -> None:
    first, second = chosen(pool, 20_000, seed=0), chosen(pool, 20_000, seed=1)
    assert set(first) == set(second)
    assert list(first) != list(second)
    order = document_order(pool.ids, 0)
    places = np.empty(N, int)
    places[order] = np.arange(N)
    assert (np.diff(places[first]) > 0).all()


def test_a_larger_budget_keeps_what_a_smaller_one_did(pool: Candidates) -> None:
    for params in ({}, {"keep": "bottom"}, {"temperature": 0.7}, {"rate": 0.5}):
        assert set(chosen(pool, 5_000, **params)) <= set(chosen(pool, 40_000, **params))


def test_bottom_and_percentiles(pool: Candidates) -> None:
    worst = np.argsort(pool.scores)  # type: ignore[arg-type]
    rows = chosen(pool, 3_000, keep="bottom")
    assert set(rows) == set(worst[: len(rows)])
    rows = chosen(pool, 10**9, percentiles=[40, 60])
    assert set(rows) == set(worst[800:1200])
    rows = chosen(pool, 10**9, keep="top", rate=0.1)
    assert set(rows) == set(worst[1800:])


def test_a_share_is_sampled_and_paired_with_random(pool: Candidates) -> None:
    rows = chosen(pool, 2_000, seed=3, rate=0.5)
    best = set(np.argsort(-pool.scores)[:1000])  # type: ignore[operator]
    order = [row for row in document_order(pool.ids, 3) if row in best]
    assert list(rows) == order[: len(rows)]


def test_temperature_samples_without_replacement_from_the_softmax() -> None:
    """The share of draws in which a document comes first is its softmax weight."""
    scores = np.array([1.0, 0.0, -1.0])
    standard = scores / scores.std()
    ids = np.arange(3, dtype=np.uint64)
    first = np.zeros(3)
    for seed in range(4000):
        pool = Candidates(ids, np.ones(3, int), np.zeros(3, np.uint16), ("a",), scores, str)
        first[chosen(pool, 1, seed=seed, temperature=2.0)[0]] += 1
    expected = np.exp(standard / 2) / np.exp(standard / 2).sum()
    np.testing.assert_allclose(first / 4000, expected, atol=0.025)


def test_a_low_temperature_is_the_top(pool: Candidates) -> None:
    assert set(chosen(pool, 9_000, temperature=1e-9)) == set(chosen(pool, 9_000))
    assert set(chosen(pool, 9_000, temperature=1e-9, keep="bottom")) == set(
        chosen(pool, 9_000, keep="bottom")
    )


def test_a_share_of_the_budget_comes_at_random(pool: Candidates) -> None:
    rows = chosen(pool, 40_000, random=0.25)
    assert len(set(rows)) == len(rows)
    pure = set(chosen(pool, 30_000))
    assert pure <= set(rows)
    drawn = [row for row in rows if row not in pure]
    assert 10_000 <= pool.lengths[drawn].sum() < 10_200
    assert np.mean(pool.scores[drawn]) < np.mean(pool.scores[list(pure)])  # type: ignore[index]


def test_documents_without_a_score_are_not_ranked() -> None:
    scores = np.array([np.nan, 1.0, 2.0, np.nan])
    pool = Candidates(
        np.arange(4, dtype=np.uint64), np.full(4, 10), np.zeros(4, np.uint16), ("a",), scores, str
    )
    assert set(chosen(pool, 10**6)) == {1, 2}
    with pytest.raises(DataError, match=r"raise influence.proxy.tokens"):
        chosen(Candidates(pool.ids, pool.lengths, pool.domains, ("a",), scores * np.nan, str), 10)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"percentiles": [60, 40]}, "must rise"),
        ({"percentiles": [10, 40], "keep": "top"}, "a rule of its own"),
        ({"rate": 0.3, "temperature": 1.0}, "give one"),
        ({"way": "direct", "aggregate": "max"}, "write `way: dump`"),
        ({"aggregate": "self", "normalise": "cosine"}, "is 1; drop"),
        ({"aggregate": "self", "query_weights": {"a": 1}}, "no queries to weigh"),
        ({"way": "capture", "aggregate": "self", "preconditioner": "adam"}, "drop `precond"),
        ({"query_weights": {"a": -1}}, "must be 0 or more"),
        ({"keep": "middle"}, "Input should be 'top' or 'bottom'"),
        ({"temprature": 1}, "did you mean `temperature`"),
    ],
)
def test_wrong_parameters_are_refused_with_the_way_out(
    params: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**params)


def test_the_rule_is_no_part_of_the_scores() -> None:
    """Arms that differ in what they keep share the scoring stage."""
    top, bottom = method(), method(keep="bottom", random=0.1)
    assert top.score_request() == bottom.score_request()
    assert method(preconditioner="adam").score_request() != top.score_request()
    own = method(aggregate="self").score_request()
    assert own is not None
    assert own.params["normalise"] == "none"


@pytest.mark.parametrize(
    ("strategy", "way"),
    [("stored", "dump"), ("on-the-fly", "direct"), ("during-training", "capture")],
)
def test_a_strategy_is_a_way_by_its_clearer_name(strategy: str, way: str) -> None:
    named = TracinParams.model_validate({"strategy": strategy})
    assert named.deciding() == TracinParams.model_validate({"way": way}).deciding()
    with pytest.raises(ValidationError, match="two names of one setting"):
        TracinParams.model_validate({"strategy": strategy, "way": way})
    with pytest.raises(ValidationError, match="write stored, on-the-fly, during-training"):
        TracinParams.model_validate({"strategy": "lazy"})
