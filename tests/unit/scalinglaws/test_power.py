"""Power and required grids, against simulated comparisons and fits; noise from a pilot."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scalinglaws.compare.differences import contrasts, differences
from scalinglaws.design import Design, Effect, Noise, assumed_curve
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit, tangents
from scalinglaws.inputs import read_inputs
from scalinglaws.laws import Floats
from scalinglaws.pilot import basis, measured_noise, reference_curve
from scalinglaws.power import design_warnings, detectable, expected_fit, power, power_of, required
from scalinglaws.read import read_losses
from scalinglaws.study import study

GRID = Design(tuple(np.geomspace(1e6, 1e8, 5)), seeds=3)
NOISE = Noise(0.003, 0.5)


def row(table: pd.DataFrame, comparison: str) -> pd.Series:  # type: ignore[type-arg]
    """The last row of a comparison: the largest budget's."""
    return table[table["comparison"] == comparison].iloc[-1]


def simulated(shift: Floats, design: Design, noise: Noise, count: int) -> tuple[Floats, Floats]:
    """Losses [count, b, s] of the reference and of a method that is ``shift`` [b] better."""
    rng = np.random.default_rng(4)
    size = (count, len(design.budgets), design.seeds)
    common, *own = rng.normal(size=(3, *size))
    share = np.sqrt([noise.correlation, 1 - noise.correlation])
    curve = assumed_curve(design.budgets).predict(design.tokens)[:, None]
    first, second = (curve + noise.sd * (share[0] * common + share[1] * each) for each in own)
    return first, second - shift[:, None]


@pytest.mark.parametrize("degrees", [1, 2, 10, 40])
@pytest.mark.parametrize("scaled", [0.0, 0.5, 3.0, 12.0])
def test_power_is_the_noncentral_f_distribution(degrees: int, scaled: float) -> None:
    threshold = stats.f.ppf(0.95, 1, degrees)
    wanted = 0.05 if scaled == 0 else stats.ncf.sf(threshold, 1, degrees, scaled**2)
    assert power_of(scaled, degrees, 0.05) == pytest.approx(wanted, abs=1e-6)


def test_differences_are_seen_as_often_as_a_paired_test_sees_them() -> None:
    shift = np.full(5, 0.003)
    first, second = simulated(shift, GRID, NOISE, 4000)
    apart = first - second
    planned = power(Effect(0.003), GRID, NOISE)

    everywhere = stats.ttest_1samp(apart.reshape(4000, -1), 0, axis=1).pvalue < 0.05
    assert everywhere.mean() == pytest.approx(row(planned, "all budgets")["power"], abs=0.02)

    pooled = np.sqrt(apart.var(axis=2, ddof=1).mean(axis=1))
    t = apart.mean(axis=2)[:, -1] / (pooled / np.sqrt(3))
    there = np.abs(t) > stats.t.ppf(0.975, 10)
    assert there.mean() == pytest.approx(row(planned, "one budget")["power"], abs=0.02)
    assert 0.2 < there.mean() < everywhere.mean()


def test_a_multiplier_is_seen_as_often_as_its_shape_is_found_in_the_differences() -> None:
    curve = assumed_curve(GRID.budgets)
    shape = Effect(multiplier=1.03).at(GRID.tokens, curve)
    first, second = simulated(shape, GRID, NOISE, 4000)
    apart = (first - second).reshape(4000, -1)
    wide = np.repeat(shape, 3)
    slope = apart @ wide / (wide @ wide)
    rest = apart - slope[:, None] * wide
    t = slope * np.linalg.norm(wide) / np.sqrt((rest**2).sum(axis=1) / 14)
    seen = (np.abs(t) > stats.t.ppf(0.975, 14)).mean()
    planned = row(power(Effect(multiplier=1.03), GRID, NOISE), "all budgets")["power"]
    assert seen == pytest.approx(planned, abs=0.02)
    assert 0.3 < seen < 0.99


def swept(first: Floats, second: Floats) -> pd.DataFrame:
    """Losses [b, s] of ``random`` and ``other`` on GRID."""
    tokens, seeds = np.repeat(GRID.tokens, 3), np.tile(np.arange(3), 5)
    parts = [
        pd.DataFrame({"method": name, "tokens": tokens, "seed": seeds, "loss": losses.ravel()})
        for name, losses in (("random", first), ("other", second))
    ]
    return pd.concat(parts, ignore_index=True)


def test_our_own_comparison_sees_a_difference_at_one_budget_as_often_as_planned() -> None:
    seen = []
    for first, second in zip(*simulated(np.full(5, 0.006), GRID, NOISE, 300), strict=True):
        frame = swept(first, second)
        against = contrasts(frame.assign(budget=frame["tokens"]), "random")
        found = differences(against, "random")
        assert found["paired"].all()
        seen.append(found["p"].iloc[-1] < 0.05)
    planned = row(power(Effect(0.006), GRID, NOISE), "one budget")["power"]
    assert np.mean(seen) == pytest.approx(planned, abs=0.07)
    assert 0.5 < planned < 0.95


def fitted(losses: Floats, design: Design, curve: Fit) -> Fit:
    tokens = np.repeat(design.tokens, design.seeds)
    return fit_law(curve.law, tokens, losses.ravel(), intervals=False, begin=curve.logs[None])


def test_fitted_curves_differ_at_the_largest_budget_as_often_as_planned() -> None:
    curve, effect = assumed_curve(GRID.budgets), Effect(0.004)
    pairs = zip(*simulated(np.full(5, 0.004), GRID, NOISE, 400), strict=True)
    seen = 0
    for first, second in pairs:
        a, b = fitted(first, GRID, curve), fitted(second, GRID, curve)
        rest = (first - second).ravel() - (a.predict(a.problem.x) - b.predict(b.problem.x))
        columns = tangents(a, a.problem.x)
        at = columns[-1] @ np.linalg.solve(columns.T @ columns, columns[-1])
        apart = a.predict(GRID.tokens)[-1] - b.predict(GRID.tokens)[-1]
        t = apart / np.sqrt((rest**2).sum() / 12 * at)
        seen += abs(t) > stats.t.ppf(0.975, 12)
    planned = row(power(effect, GRID, NOISE), "fitted curves")["power"]
    assert seen / 400 == pytest.approx(planned, abs=0.06)
    assert 0.3 < planned < 0.95


@pytest.mark.slow
def test_the_paired_bootstrap_sees_a_difference_as_often_as_planned() -> None:
    pairs = zip(*simulated(np.full(5, 0.005), GRID, NOISE, 60), strict=True)
    seen = 0
    for first, second in pairs:
        draws = study(read_losses(swept(first, second)), ["power"]).resample(300)
        apart = [draws[name].predict(GRID.tokens)[:, -1] for name in ("other", "random")]
        low, high = np.quantile(apart[0] - apart[1], [0.025, 0.975])
        seen += low > 0 or high < 0
    planned = row(power(Effect(0.005), GRID, NOISE), "fitted curves")["power"]
    assert seen / 60 == pytest.approx(planned, abs=0.15)


@pytest.mark.parametrize("unit", ["nats", "multiplier"])
def test_what_is_detectable_has_the_wanted_power(unit: str) -> None:
    design = replace(GRID, methods=4, power=0.9)
    for least in detectable(design, NOISE).to_dict("records"):
        table = power(Effect(**{unit: least[unit]}), design, NOISE)
        same = table["comparison"] == least["comparison"]
        if least["comparison"] == "one budget":
            same &= table["budget"] == least["budget"]
        assert table[same]["power"].iloc[0] == pytest.approx(0.9, abs=1e-6)


def test_one_seed_says_nothing_of_a_single_budget() -> None:
    table = detectable(replace(GRID, seeds=1), NOISE)
    assert np.isinf(row(table, "one budget")["nats"])
    assert np.isfinite(row(table, "all budgets")["nats"])


def test_required_seeds_suffice_and_fewer_do_not() -> None:
    effect = Effect(0.0015)
    grids = required(effect, NOISE, GRID)
    assert list(grids["budgets"]) == [3, 4, 5, 6, 8]
    for count, seeds, cells in grids[["budgets", "seeds", "cells"]].to_numpy(int):
        assert cells == 2 * count * seeds
        grid = replace(GRID, budgets=tuple(np.geomspace(1e6, 1e8, count)))
        enough, fewer = (
            row(power(effect, replace(grid, seeds=int(s)), NOISE), "all budgets")["power"]
            for s in (seeds, seeds - 1)
        )
        assert enough >= 0.8 > fewer
    assert (required(Effect(1e-6), NOISE, GRID)["seeds"] == 0).all()


@pytest.mark.parametrize("design", [GRID, Design(tuple(np.geomspace(1e6, 1e9, 8)), 1)])
def test_expected_intervals_are_as_wide_as_simulated_fits_spread(design: Design) -> None:
    noise = Noise(0.001)
    curve = assumed_curve(design.budgets)
    fit = expected_fit(design, noise)
    assert fit.identified
    assert fit.residual_sd == pytest.approx(0.001)
    first, _ = simulated(np.zeros(len(design.budgets)), design, noise, 400)
    fits = [fitted(losses, design, curve) for losses in first]
    threshold = 2 * stats.t.ppf(0.975, fit.degrees)
    for name in ("E", "beta"):
        low, high = fit.intervals[name]
        spread = np.std([each.estimates[name] for each in fits])
        assert (high - low) / threshold == pytest.approx(spread, rel=0.25)


def test_range_counts_for_more_than_the_number_of_budgets() -> None:
    def width(count: int, decades: float) -> float:
        design = Design(tuple(np.geomspace(1e6, 1e6 * 10**decades, count)))
        low, high = expected_fit(design, NOISE).intervals["beta"]
        return high - low

    assert width(5, 3) < width(10, 2) < width(5, 2)


def test_a_short_noisy_range_is_not_identified() -> None:
    design = Design((1e6, 1.5e6, 2e6), 2)
    assert not expected_fit(design, Noise(0.02)).identified
    assert "cannot be told apart" in design_warnings(design, Noise(0.02))[0]


@pytest.mark.parametrize(
    ("design", "noise", "wanted"),
    [
        (Design((1e6, 1e7), 3), Noise(), "3 or more"),
        (Design((1e6, 1e7, 1e8), 1), Noise(), "run 2 or more"),
        (Design((1e6, 2e6, 4e6), 3), Noise(), "0.6 decades"),
        (Design((1e6, 1e7, 1e8), 2, 6), Noise(0.01), "0.01 nats"),
        (Design((1e6, 1e8, 3e8), 2), Noise(0.05), "1.2 x tokens"),
    ],
)
def test_a_grid_that_cannot_answer_is_doubted(design: Design, noise: Noise, wanted: str) -> None:
    assert any(wanted in said for said in design_warnings(design, noise))


def test_a_good_grid_is_not_doubted() -> None:
    assert design_warnings(Design(tuple(np.geomspace(1e6, 3e8, 6)), 3, 6), Noise()) == []


def test_the_seeds_that_a_doubt_names_would_do() -> None:
    design = Design((1e6, 1e7, 1e8), 2, 6)
    (said,) = [each for each in design_warnings(design, Noise(0.01)) if "0.01 nats" in each]
    seeds = int(said.split(": ")[1].split()[0])
    assert not any(
        "0.01 nats" in each for each in design_warnings(replace(design, seeds=seeds), Noise(0.01))
    )


def pilot(seeds: int, correlation: float, sd: float = 0.004) -> pd.DataFrame:
    design = Design((1e6, 1e7, 1e8), seeds)
    shift = np.full(3, 0.02)
    both = [losses[0] for losses in simulated(shift, design, Noise(sd, correlation), 1)]
    rows = [
        (name, tokens, seed, losses[i, seed])
        for name, losses in zip(("other", "random"), both, strict=True)
        for i, tokens in enumerate(design.tokens)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["method", "tokens", "seed", "loss"])


def test_noise_is_measured_within_cells_and_paired_by_seed() -> None:
    found = measured_noise(read_losses(pilot(300, 0.7)))
    assert found.sd == pytest.approx(0.004, rel=0.05)
    assert found.correlation == pytest.approx(0.7, abs=0.05)
    low, high = found.interval()
    assert low < 0.004 < high
    wanted = found.sd * np.sqrt(found.degrees / stats.chi2.ppf([0.975, 0.025], found.degrees))
    assert (low, high) == pytest.approx(tuple(wanted))
    shuffled = pilot(300, 0.7).assign(seed=lambda t: t["seed"] + 300 * (t["method"] == "other"))
    assert measured_noise(read_losses(shuffled)).correlation == 0


def test_few_seeds_tell_no_correlation_and_one_no_noise() -> None:
    assert measured_noise(read_losses(pilot(2, 0.9))).correlation == 0
    with pytest.raises(AnalysisError, match="--noise"):
        measured_noise(read_losses(pilot(1, 0.0)))


def test_a_pilot_gives_noise_and_curve_and_what_is_stated_wins() -> None:
    inputs = read_inputs(pilot(8, 0.0))
    known = basis(GRID, inputs)
    assert known.noise.degrees == 2 * 3 * 7
    assert "`random`" in known.curve_from
    tokens = np.array([1e6, 1e8])
    curve = assumed_curve((1e6,))
    fit, _ = reference_curve(inputs.losses)
    assert fit.predict(tokens) == pytest.approx(curve.predict(tokens) - 0.02, abs=0.01)
    stated = basis(GRID, inputs, sd=0.01, exponent=0.2)
    assert stated.noise.sd == 0.01
    assert stated.curve.estimates["beta"] == pytest.approx(0.2, rel=1e-6)


def test_a_pilot_too_small_for_noise_or_curve_is_said() -> None:
    known = basis(GRID, read_inputs(pilot(1, 0.0).query("tokens < 5e7")))
    assert "since no cell" in known.noise_from
    assert "since `random` of the table gives no curve" in known.curve_from


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Noise(0.0),
        lambda: Noise(0.1, 1.0),
        lambda: Noise(float("nan")),
        lambda: Design(()),
        lambda: Design((1e6, 1e6)),
        lambda: Design((-1.0,)),
        lambda: Design((1e6,), 0),
        lambda: Design((1e6,), power=0.01),
        lambda: Design((1e6,), confidence=1.0),
        lambda: Effect(),
        lambda: Effect(0.1, 1.2),
        lambda: Effect(-0.1),
        lambda: Effect(multiplier=1.0),
        lambda: assumed_curve((1e6,), -1.0),
        lambda: assumed_curve((1e6,), exponent=0.0),
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(AnalysisError, match=r"must be|either in nats"):
        wrong()


def test_planning_is_fast() -> None:
    large = Design(tuple(np.geomspace(1e6, 1e9, 50)), 10, 6)
    started = time.perf_counter()
    design_warnings(large, Noise())
    assert time.perf_counter() - started < 1
