"""What is read off fitted curves: multipliers, crossovers, tokens for a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from scalinglaws.bootstrap import wild
from scalinglaws.compare.cost import selection, training
from scalinglaws.compare.crossover import Gap, crossovers
from scalinglaws.compare.curves import Curves, curves_of
from scalinglaws.compare.iso_loss import default_levels, iso_loss
from scalinglaws.compare.multiplier import constant, multipliers
from scalinglaws.compare.nested import joint_fits
from scalinglaws.estimation import fit_law
from scalinglaws.laws import Power
from scalinglaws.read import read_losses
from scalinglaws.study import Study, study

BUDGETS = np.geomspace(2e6, 2e8, 5)
Curve = Callable[[Any], Any]


def simulated(
    curves: Mapping[str, Curve],
    noise: float = 0.0,
    seeds: int = 3,
    rng: int = 0,
    law: str = "power",
    base_loss: float | None = None,
    common: float = 0.0,
) -> Study:
    """Runs at 5 budgets; ``common`` is noise that the methods' runs of one seed share."""
    draw = np.random.default_rng(rng)
    rows = []
    for budget in BUDGETS:
        for seed in range(seeds):
            shared = draw.normal(0, common)
            for method, curve in curves.items():
                loss = curve(budget) + shared + draw.normal(0, noise)
                rows.append((method, budget, seed, loss))
    frame = pd.DataFrame(rows, columns=["method", "tokens", "seed", "loss"])
    return study(read_losses(frame), [law], base_loss, seed=rng)


def power(floor: float = 3.0, amplitude: float = 0.5, beta: float = 0.3) -> Curve:
    return lambda tokens: floor + amplitude * (tokens / 1e6) ** -beta


def efficient(worth: float) -> Curve:
    return power(amplitude=0.5 * worth**-0.3)


def test_the_tokens_for_a_loss_are_those_that_a_root_finder_finds() -> None:
    curves = curves_of(simulated({"a": power(), "b": power(3.1)}, noise=0.003))["a"]
    wanted = np.array([3.35, 3.25, 3.2])
    found = curves.tokens_for(wanted[None])[0]
    for loss, tokens in zip(wanted, found, strict=True):
        root = optimize.brentq(
            lambda log, at=loss: curves.fit.predict(np.array([np.exp(log)]))[0] - at, 5, 25
        )
        assert tokens == pytest.approx(np.exp(root), rel=5e-4)


def test_a_multiplier_of_tokens_is_found_at_every_budget() -> None:
    made = simulated({"random": power(), "good": efficient(1.6)})
    found = multipliers(curves_of(made), "random")
    assert found["multiplier"].to_numpy() == pytest.approx(1.6, rel=1e-3)
    assert found["ci_low"].to_numpy() == pytest.approx(1.6, rel=1e-2)
    assert set(found["tokens"]) >= set(BUDGETS)
    beyond = found.loc[found["extrapolated"], "tokens"].to_numpy()
    assert beyond == pytest.approx([2 * BUDGETS[-1], 4 * BUDGETS[-1]])


def test_another_floor_gives_the_multiplier_of_the_formula() -> None:
    made = simulated({"random": power(), "worse": power(3.02)})
    at = np.array([2e6, 2e7])
    found = multipliers(curves_of(made), "random", tokens=at)
    reducible = 0.02 + 0.5 * (at / 1e6) ** -0.3
    expected = (reducible / 0.5) ** (-1 / 0.3) * 1e6 / at
    assert found["multiplier"].to_numpy() == pytest.approx(expected, rel=1e-3)


def test_a_loss_that_the_reference_never_reaches_is_worth_infinitely_many_tokens() -> None:
    made = simulated({"random": power(3.2), "better": power(2.9)})
    found = multipliers(curves_of(made), "random", tokens=np.array([2e8]))
    assert np.isinf(found[["multiplier", "ci_low", "ci_high"]].to_numpy(float)).all()


def test_tokens_that_do_harm_are_worth_none() -> None:
    """The base model, which the reference starts from, is better than this method ever is."""
    better = lambda tokens: 3 + 1 / (1 + (tokens / 1e7) ** 0.6)  # noqa: E731
    harmful = lambda tokens: 4.1 + 0.001 * (tokens / 1e6) ** -0.2  # noqa: E731
    made = simulated({"random": better, "bad": harmful}, law="rectified", base_loss=4.0)
    found = multipliers(curves_of(made), "random", tokens=np.array([2e7]))
    assert float(found["multiplier"].iloc[0]) == 0


def test_the_cost_of_selection_is_charged() -> None:
    made = simulated({"random": power(), "good": efficient(1.6)})
    results = made.losses.frame.assign(
        train_flops=lambda f: f["tokens"] * np.where(f["method"] == "good", 2.0, 1.0)
    )
    costs = pd.DataFrame(
        {
            "method": ["good", "good"],
            "stage": ["score", "select"],
            "flops": [3e7, 1e7],
            "device_hours": [np.nan, 1.0],
            "shared_with": ["", None],
        }
    )
    found = multipliers(
        curves_of(made), "random", training(results), selection(costs), tokens=np.array([2e7])
    )
    assert list(found["charged"]) == ["none", "flops"]
    expected = 1.6 * 2e7 / (2 * 2e7 + 4e7)
    assert float(found["multiplier"].iloc[1]) == pytest.approx(expected, rel=1e-3)


def test_the_constant_multiplier_is_surer_than_that_of_free_curves() -> None:
    made = simulated({"random": power(), "good": efficient(1.25)}, noise=0.003)
    one = constant(made, "random", joint_fits(made)).iloc[0]
    free = multipliers(curves_of(made), "random", tokens=BUDGETS[-1:]).iloc[0]
    assert one["ci_low"] < 1.25 < one["ci_high"]
    assert one["ci_high"] - one["ci_low"] < free["ci_high"] - free["ci_low"]
    assert one["p"] > 0.05


def test_the_constant_multiplier_of_the_rectified_law_is_the_ratio_of_its_half_points() -> None:
    def curve(half: float) -> Curve:
        return lambda tokens: 3 + 1 / (1 + (tokens / half) ** 0.6)

    made = simulated({"random": curve(1e7), "good": curve(7e6)}, law="rectified", base_loss=4.0)
    one = constant(made, "random", joint_fits(made)).iloc[0]
    assert one["multiplier"] == pytest.approx(10 / 7, rel=1e-3)


STEEP, FLAT = power(3.0, 0.5, 0.4), power(3.0, 0.3, 0.2)
#: 0.5 x^-0.4 = 0.3 x^-0.2 at x = (5/3)^5 million tokens.
CROSSING = (5 / 3) ** 5 * 1e6


def test_a_crossing_is_found_where_the_formulas_cross() -> None:
    found = crossovers(curves_of(simulated({"steep": STEEP, "flat": FLAT}, noise=1e-6)))
    row = found.iloc[0]
    assert len(found) == 1
    assert row["tokens"] == pytest.approx(CROSSING, rel=1e-2)
    assert row["ci_low"] < row["tokens"] < row["ci_high"]
    assert row["share"] == 1
    assert "flat lower before and steep after" in row["verdict"]


def test_an_interval_of_a_crossing_covers_it() -> None:
    held = 0
    labels = [str(place) for place in range(15)]
    for rng in range(40):
        draw = np.random.default_rng(rng)
        tokens = np.repeat(BUDGETS, 3)
        fits = {
            name: fit_law(
                Power(), tokens, curve(tokens) + draw.normal(0, 0.004, 15), intervals=False
            )
            for name, curve in (("steep", STEEP), ("flat", FLAT))
        }
        drawn = wild(fits, dict.fromkeys(fits, labels), draws=400, seed=rng)
        found = crossovers({name: Curves.of(draws) for name, draws in drawn.items()})
        row = found.iloc[(found["tokens"] / CROSSING).map(np.log).abs().argmin()]
        held += int(row["ci_low"] <= CROSSING <= row["ci_high"])
    assert held >= 34


def test_no_crossing_says_so() -> None:
    found = crossovers(curves_of(simulated({"a": power(3.0), "b": power(3.1)}, noise=0.002)))
    assert np.isnan(found.loc[0, "tokens"])
    assert found.loc[0, "share"] < 0.05
    assert "do not cross between 2M and 800M tokens: a is lower" in found.loc[0, "verdict"]


def test_curves_that_coincide_do_not_cross() -> None:
    found = crossovers(curves_of(simulated({"a": power(), "b": power()})))
    assert np.isnan(found.loc[0, "tokens"])
    assert "the same" in found.loc[0, "verdict"]


def test_a_draw_that_crosses_outside_the_range_is_on_the_side_where_it_crosses() -> None:
    values = np.array([[-1.0, 1, 3], [-3.0, -1, 1], [1.0, 2, 3], [-3.0, -2, -1]])
    gap = Gap(np.array([1.0, 10.0, 100.0]), values)
    at = float(gap.places()[0, 0])
    assert at == pytest.approx(np.sqrt(10))
    assert list(gap.near(at, rising=True)) == [pytest.approx(10**1.5), 0.0, np.inf]


def test_the_tokens_for_a_loss_are_those_of_the_formula() -> None:
    made = simulated({"a": power(), "b": power(3.05)})
    found = iso_loss(curves_of(made), {"flops": {"a": 6.0}}, levels=np.array([3.3, 3.12]))
    tokens = found["tokens"].to_numpy()
    floors = np.array([3.0, 3.0, 3.05, 3.05])
    expected = ((found["loss"] - floors) / 0.5) ** (-1 / 0.3) * 1e6
    assert tokens == pytest.approx(expected.to_numpy(), rel=2e-3)
    assert list(found["extrapolated"]) == [False, False, False, True]
    assert found["flops"].iloc[0] == pytest.approx(6 * tokens[0])
    assert found["flops"].iloc[2:].isna().all()


def test_the_levels_are_losses_that_all_methods_reached() -> None:
    curves = curves_of(simulated({"a": power(), "b": power(3.05)}))
    levels = default_levels(curves)
    assert len(levels) == 5
    assert not iso_loss(curves)["extrapolated"].any()


@pytest.mark.slow
def test_intervals_of_the_multiplier_hold_the_truth() -> None:
    """Paired seeds, 5 budgets x 3; a fifth of the runs may miss before this is no 95 %."""
    at = np.array([2e6, 2e7, 2e8, 8e8])
    held = []
    for rng in range(60):
        made = simulated({"random": power(), "good": efficient(1.25)}, 0.0022, 3, rng, common=0.002)
        found = multipliers(curves_of(made), "random", tokens=at)
        held.append(((found["ci_low"] <= 1.25) & (found["ci_high"] >= 1.25)).to_numpy())
    assert np.mean(held, axis=0).min() > 0.85
