"""Resampled fits against closed forms of problems that are linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from scalinglaws import fit_law
from scalinglaws.bootstrap import Draws, band, noise, pair_intervals, pairs, quantiles, wild
from scalinglaws.fitted import Fit
from scalinglaws.laws import Chinchilla, Law, Points, Power, Rectified, Shape, Terms
from scalinglaws.minimise import minimise, starts
from scalinglaws.problem import Problem
from scalinglaws.read import read_losses
from scalinglaws.study import labels, seed_weights, study

Array = npt.NDArray[np.float64]


class Line(Law):
    """Linear regression: no shapes."""

    name = "line"
    formula = "L(D) = E + B / D"
    source = "this test"
    amplitudes = ("E", "B")

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return ()

    def terms(self, x: Points, *shapes: Array) -> Terms:
        return 0.0, {"E": 1.0, "B": 1 / x.tokens}


class Level(Line):
    """A mean."""

    amplitudes = ("E",)
    min_budgets = 1

    def terms(self, x: Points, *shapes: Array) -> Terms:
        return 0.0, {"E": np.ones(len(x))}


def line(seed: int = 0, seeds: int = 3, sd: float = 0.01) -> Fit:
    tokens = np.repeat([1.0, 2.0, 3.0, 5.0, 8.0], seeds)
    errors = np.random.default_rng(seed).normal(0, sd, len(tokens))
    return fit_law(Line(), tokens, 3 + 0.5 / tokens + errors)


def design(fit: Fit) -> Array:
    tokens = fit.problem.x.tokens
    return np.stack([np.ones_like(tokens), 1 / tokens], axis=1)


def one_each(fit: Fit) -> list[str]:
    return [str(index) for index in range(fit.points)]


def test_profile_intervals_of_a_line_are_the_textbooks() -> None:
    fit = line()
    errors = np.sqrt(np.diag(np.linalg.inv(design(fit).T @ design(fit)))) * fit.residual_sd
    limit = stats.t.ppf(0.975, fit.degrees)
    for name, error in zip(("E", "B"), errors, strict=True):
        ends = fit.estimates[name] + limit * error * np.array([-1, 1])
        assert fit.intervals[name] == pytest.approx(tuple(ends), abs=0.01 * error)


@pytest.mark.parametrize("count", [6, 9, 15])
def test_quantiles_of_a_mean_are_students(count: int) -> None:
    """Each point counts as the mean of its jackknife square and s^2; its leverage is 1/n."""
    losses = np.random.default_rng(count).normal(3, 0.01, count)
    fit = fit_law(Level(), np.full(count, 1e6), losses, intervals=False)
    low, high = quantiles(wild({"": fit}, {"": one_each(fit)}, 20_000)[""].values("E"))
    inflated = np.sqrt((1 / (1 - 1 / count) + 1) / 2)
    half = stats.t.ppf(0.975, count - 1) * losses.std(ddof=1) / np.sqrt(count) * inflated
    # Six-point weights have thinner tails than normal ones: the fewer points, the more.
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(losses.mean(), abs=0.05 * half)


def test_bands_of_a_line_are_the_textbooks() -> None:
    at = np.array([1.0, 4.0, 30.0])
    rows = np.stack([np.ones(3), 1 / at], axis=1)
    ratios = []
    for seed in range(30):
        fit = line(seed, seeds=6)
        low, high = band(wild({"": fit}, {"": one_each(fit)}, 1000, seed)[""], at)
        spread = np.linalg.inv(design(fit).T @ design(fit))
        error = fit.residual_sd * np.sqrt(np.einsum("mi,ij,mj->m", rows, spread, rows))
        ratios.append((high - low) / 2 / (stats.t.ppf(0.975, fit.degrees) * error))
    assert np.mean(ratios, axis=0) == pytest.approx(np.ones(3), abs=0.06)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_noise_of_a_cluster_is_its_residuals_to_the_fit_without_it(size: int) -> None:
    fit = line(seeds=6)
    clusters = np.arange(fit.points) // size
    freed = noise(fit, clusters)
    for cluster in np.unique(clusters):
        own = clusters == cluster
        without, *_ = np.linalg.lstsq(design(fit)[~own], fit.problem.losses[~own], rcond=None)
        assert freed[own] == pytest.approx(fit.problem.losses[own] - design(fit)[own] @ without)


def test_weighted_errors_are_drawn_in_proportion_to_what_weights_say() -> None:
    """A weighted mean: its variance is s^2 over the sum of weights (leverages included)."""
    rng = np.random.default_rng(3)
    weights = np.geomspace(0.05, 4, 30)
    losses = 3 + rng.normal(0, 0.01, 30) / np.sqrt(weights)
    fit = fit_law(Level(), np.full(30, 1e6), losses, weights, intervals=False)
    low, high = quantiles(wild({"": fit}, {"": one_each(fit)}, 20_000)[""].values("E"))
    center = np.average(losses, weights=weights)
    leverage = weights / weights.sum()
    squares = weights * (losses - center) ** 2
    pooled = squares.sum() / 29
    spread = (leverage * (squares / (1 - leverage) ** 2 + pooled) / 2).sum() / weights.sum()
    half = stats.t.ppf(0.975, 29) * np.sqrt(spread)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def two_methods() -> dict[str, Fit]:
    """Two methods whose seeds have nearly the same luck."""
    rng = np.random.default_rng(4)
    tokens = np.repeat(np.geomspace(1e6, 1e8, 5), 3)
    luck = rng.normal(0, 0.004, len(tokens))
    return {
        name: fit_law(
            Power(),
            tokens,
            floor + 200 * tokens**-0.4 + luck + rng.normal(0, 0.0005, len(tokens)),
            intervals=False,
        )
        for name, floor in (("random", 3.0), ("chosen", 2.9))
    }


def correlation(fits: dict[str, Fit], clusters: dict[str, list[str]]) -> float:
    drawn = wild(fits, clusters, 2000)
    ends = [drawn[name].predict(np.array([1e8]))[:, 0] for name in fits]
    return float(np.corrcoef(*ends)[0, 1])


def test_the_same_runs_get_the_same_draws_in_every_method() -> None:
    fits = two_methods()
    runs = one_each(fits["random"])
    assert correlation(fits, {"random": runs, "chosen": runs}) > 0.95
    assert abs(correlation(fits, {"random": runs, "chosen": [f"b{run}" for run in runs]})) < 0.08


@pytest.mark.parametrize("luck", [0.0, 0.005, 0.05])
def test_differences_of_paired_draws_are_the_textbooks(luck: float) -> None:
    """The paired t interval, however much of the noise both methods share."""
    rng = np.random.default_rng(8)
    shared = rng.normal(0, luck, 12)
    losses = {name: 3 + shared + rng.normal(0, 0.005, 12) for name in ("random", "chosen")}
    fits = {
        name: fit_law(Level(), np.full(12, 1e6), each, intervals=False)
        for name, each in losses.items()
    }
    drawn = wild(fits, dict.fromkeys(fits, one_each(fits["random"])), 20_000)
    low, high = quantiles(drawn["chosen"].values("E") - drawn["random"].values("E"))
    apart = losses["chosen"] - losses["random"]
    inflated = np.sqrt((1 / (1 - 1 / 12) + 1) / 2)
    half = stats.t.ppf(0.975, 11) * apart.std(ddof=1) / np.sqrt(12) * inflated
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(apart.mean(), abs=0.05 * half)


def test_draws_depend_on_the_seed_alone() -> None:
    fit = two_methods()["random"]
    runs = {"": one_each(fit)}
    first, again, other = (wild({"": fit}, runs, 50, seed)[""].logs for seed in (1, 1, 2))
    assert (first == again).all()
    assert not np.allclose(first, other)


def test_draws_without_noise_to_draw_have_no_band() -> None:
    tokens = np.array([1e6, 1e7, 1e8])
    fit = fit_law(Power(), tokens, np.array([3.5, 3.2, 3.1]))
    low, high = band(wild({"": fit}, {"": ["a", "b", "c"]}, 20)[""], tokens)
    assert np.isnan([low, high]).all()


def test_draws_from_one_start_are_as_low_as_from_many() -> None:
    rng = np.random.default_rng(1)
    tokens = np.repeat(np.geomspace(2e6, 2e8, 5), 3)
    truth = 3 + 1 / (1 + (tokens / 1e7) ** 0.6)
    fit = fit_law(Rectified(4.0), tokens, truth + rng.normal(0, 0.005, 15), intervals=False)
    losses = fit.predict(tokens) + rng.normal(0, 0.005, (40, 15))
    warm = minimise(Problem(fit.law, fit.problem.x, losses), np.repeat(fit.logs[None], 40, 0))
    for one, reached in zip(losses, warm.objective, strict=True):
        problem = Problem(fit.law, fit.problem.x, one)
        assert reached <= minimise(problem, starts(problem)).objective.min() * (1 + 1e-8)


def test_resampled_points_of_hubers_fit() -> None:
    """Percentiles of draws; their spread is near that of newly made tables."""
    rng = np.random.default_rng(2)
    size = np.repeat(np.geomspace(1e8, 1e10, 6), 6)
    tokens = size * np.tile(np.geomspace(2, 200, 6), 6)
    x, truth = Points(tokens, size), 1.8 + 480 * size**-0.35 + 2000 * tokens**-0.37

    def made() -> Fit:
        losses = truth * np.exp(rng.normal(0, 0.004, len(x)))
        return fit_law(
            Chinchilla(),
            x,
            losses,
            objective="huber",
            intervals=False,
            begin=np.log([[0.35, 0.37]]),
        )

    fit = made()
    drawn = pairs(fit, 300)
    assert isinstance(drawn, Draws)
    assert len(drawn) == 300
    low, high = pair_intervals(fit, 300)["E"]
    assert (low, high) == tuple(quantiles(drawn.values("E")))
    anew = np.std([made().estimates["E"] for _ in range(40)])
    assert drawn.values("E").std() == pytest.approx(anew, rel=0.5)


def table(shift: float = 0.0, **columns: Any) -> pd.DataFrame:
    """5 budgets x 3 seeds of one method; ``shift`` moves whole budgets."""
    rng = np.random.default_rng(6)
    rows = [
        {
            "method": "random",
            "tokens": tokens,
            "seed": seed,
            "loss": 3 + 200 * tokens**-0.4 + rng.normal(0, 0.001) + shift * (-1) ** place,
        }
        for place, tokens in enumerate((1e6, 3e6, 1e7, 3e7, 1e8))
        for seed in range(3)
    ]
    return pd.DataFrame(rows).assign(**columns)


def clusters_of(frame: pd.DataFrame) -> list[str]:
    return study(read_losses(frame), laws=["power"]).clusters["random"]


def test_clusters_are_runs_and_whole_budgets_where_the_curve_misses_them() -> None:
    assert len(set(clusters_of(table()))) == 15
    missed = clusters_of(table(shift=0.02))
    assert len(set(missed)) == 5
    assert missed == [f"{tokens:.6g}" for tokens in table()["tokens"]]


def test_checkpoints_of_a_run_are_one_cluster() -> None:
    runs = ["a", "b", "c"] * 5
    assert labels(table(run=runs, budget=table()["tokens"]), by_budget=False) == runs


def test_rows_without_a_seed_are_numbered_within_their_budget() -> None:
    frame = table(budget=table()["tokens"]).drop(columns="seed")
    assert len(set(labels(frame, by_budget=False))) == 15
    assert labels(frame, False)[:3] == ["1e+06/0/", "1e+06/1/", "1e+06/2/"]


def test_seed_weights_are_inverse_variances_where_seeds_are_many() -> None:
    rng = np.random.default_rng(0)
    sd = {1e6: 0.02, 1e7: 0.01, 1e8: 0.005}
    frame = pd.DataFrame(
        [
            {"budget": budget, "loss": 3 + rng.normal(0, spread)}
            for budget, spread in sd.items()
            for _ in range(400)
        ]
    )
    weights = pd.Series(seed_weights(frame)).groupby(frame["budget"]).mean()
    assert seed_weights(frame).mean() == pytest.approx(1)
    assert weights[1e8] / weights[1e6] == pytest.approx(16, rel=0.25)
    assert weights[1e8] / weights[1e7] == pytest.approx(4, rel=0.25)


def test_seed_weights_of_few_seeds_lean_on_all() -> None:
    frame = pd.DataFrame({"budget": [1e6, 1e6, 1e7, 1e7], "loss": [3.0, 3.1, 2.9, 2.9001]})
    weights = seed_weights(frame)
    assert 1 < weights[2] / weights[0] < 3
    assert (seed_weights(frame.drop_duplicates("budget")) == 1).all()
