"""Joint fits of several methods, their F tests, and exact tests by exchanged names."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from scalinglaws.compare.holm import holm
from scalinglaws.compare.nested import f_test, hypotheses, joint_fits, nested, steps
from scalinglaws.compare.permutation import arrange, curve_gain, mean_spread, p_value, permutation
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.laws import Power, Rectified
from scalinglaws.read import read_losses
from scalinglaws.study import study

BUDGETS = np.repeat(np.geomspace(1e6, 1e8, 5), 3)


def noisy(law: str, floor: float, start: float, rng: int) -> Fit:
    noise = np.random.default_rng(rng).normal(0, 0.003, len(BUDGETS))
    if law == "power":
        return fit_law(
            Power(), BUDGETS, floor + start * (BUDGETS / 1e6) ** -0.3 + noise, intervals=False
        )
    losses = floor + (4 - floor) / (1 + (BUDGETS / start) ** 0.6) + noise
    return fit_law(Rectified(4.0), BUDGETS, losses, intervals=False)


PAIRS = {
    "power": {"a": noisy("power", 3.0, 0.5, 1), "b": noisy("power", 3.02, 0.45, 2)},
    "rectified": {"a": noisy("rectified", 3.0, 1e7, 1), "b": noisy("rectified", 3.05, 8e6, 2)},
}


@pytest.mark.parametrize("law", PAIRS)
def test_free_curves_are_the_fits_of_each_method_alone(law: str) -> None:
    free = hypotheses(PAIRS[law])["free"]
    alone = PAIRS[law].values()
    assert free.objective == pytest.approx(sum(fit.objective for fit in alone), rel=1e-9)
    assert free.free_parameters == sum(fit.free_parameters for fit in alone)


@pytest.mark.parametrize("law", PAIRS)
def test_one_curve_is_the_fit_to_all_points(law: str) -> None:
    a, b = PAIRS[law].values()
    both = np.concatenate([a.problem.losses, b.problem.losses])
    pooled = fit_law(a.law, np.tile(BUDGETS, 2), both, intervals=False)
    assert hypotheses(PAIRS[law])["one curve"].objective == pytest.approx(pooled.objective)


@pytest.mark.parametrize(
    ("hypothesis", "start"),
    [("offset", [3.0, 3.0, 1e7, 1e7, 0.6]), ("efficiency", [3.0, 3.0, 1e7, 8e6, 0.6])],
)
def test_no_other_optimizer_finds_less_with_shared_parameters(
    hypothesis: str, start: list[float]
) -> None:
    a, b = PAIRS["rectified"].values()

    def residuals(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        floors, halves = x[:2], np.exp(x[2:4])
        if hypothesis == "offset":
            halves = halves[[0, 0]]
        else:
            floors = floors[[0, 0]]
        parts = [
            floor + (4 - floor) / (1 + (BUDGETS / half) ** x[4]) - fit.problem.losses
            for floor, half, fit in zip(floors, halves, (a, b), strict=True)
        ]
        return np.concatenate(parts)

    begin = np.array([*start[:2], *np.log(start[2:4]), start[4]])
    other = optimize.least_squares(residuals, begin, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    found = hypotheses(PAIRS["rectified"])[hypothesis]
    assert found.objective == pytest.approx(2 * other.cost, rel=1e-6)


def test_wider_hypotheses_fit_no_worse() -> None:
    for fits in PAIRS.values():
        found = {name: fit.objective for name, fit in hypotheses(fits).items()}
        assert found["free"] <= found["offset"] <= found["one curve"]
        assert found["free"] <= found["efficiency"] <= found["one curve"]


def test_the_f_test_holds_its_level() -> None:
    """P values of one curve against free ones are uniform where there is one curve."""
    p = []
    for rng in range(40):
        fits = {"a": noisy("power", 3.0, 0.5, 2 * rng), "b": noisy("power", 3.0, 0.5, 2 * rng + 1)}
        found = hypotheses(fits)
        p.append(f_test(found["one curve"], found["free"])[1])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def real(path: Path, size: float) -> pd.DataFrame:
    table = pd.read_csv(path)
    table = table[(table["chinchilla_multiplier"] >= 1) & np.isclose(table["N"], size, rtol=0.01)]
    names = {"train_data": "method", "D": "tokens", "loss_c4_val": "loss"}
    return table.rename(columns=names)[list(names.values())]


@pytest.mark.parametrize(
    ("size", "one", "offset", "efficiency", "p_one", "p_offset", "p_efficiency", "free"),
    [
        (154e6, -88.9, -111.1, -97.3, 0.0008, 0.32, 0.016, -87.9),
        (412e6, -84.7, -111.6, -108.1, 0.0014, 0.84, 0.52, -78.1),
    ],
)
def test_published_losses_of_three_train_sets_differ_by_an_offset(
    shared_data: Path,
    size: float,
    one: float,
    offset: float,
    efficiency: float,
    p_one: float,
    p_offset: float,
    p_efficiency: float,
    free: float,
) -> None:
    """Gadre et al. 2024, C4 validation loss: the values were computed by other code."""
    path = shared_data / "scaling/mlfoundations-scaling/gadre_104_models.csv"
    table = nested(joint_fits(study(read_losses(real(path, size)), ["power"])))
    found = table[table["methods"] == "all"].set_index("hypothesis")
    assert list(found["aicc"]) == pytest.approx([one, offset, efficiency, free], abs=0.06)
    expected = [p_one, p_offset, p_efficiency]
    assert list(found["p"])[:3] == pytest.approx(expected, rel=0.07)
    assert found["delta_aicc"].idxmin() == "offset"
    assert len(table) == 16


def frame_of(losses: dict[str, np.ndarray]) -> pd.DataFrame:  # type: ignore[type-arg]
    parts = [
        pd.DataFrame(
            {"method": method, "tokens": BUDGETS, "seed": np.tile([0, 1, 2], 5), "loss": values}
        )
        for method, values in losses.items()
    ]
    return pd.concat(parts)


def test_pairs_are_adjusted_and_the_steps_tell_of_a_difference() -> None:
    losses = {
        name: noisy("power", floor, 0.5, rng).problem.losses
        for name, floor, rng in (("a", 3.0, 1), ("b", 3.0, 2), ("c", 3.02, 3))
    }
    joint = joint_fits(study(read_losses(frame_of(losses)), ["power"]))
    table = nested(joint)
    pairs = table[(table["hypothesis"] == "one curve") & (table["methods"] != "all")]
    assert list(pairs["p_holm"]) == list(holm(pairs["p"]))
    assert pairs.set_index("methods")["p_holm"].le(0.05).to_dict() == {
        "a vs b": False,
        "a vs c": True,
        "b vs c": True,
    }
    gained = steps(joint).set_index(["methods", "hypothesis"])["p"]
    assert gained["all", "offset"] < 1e-4
    assert gained["a vs b", "offset"] > 0.05


def test_holm_is_the_textbook_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.5, np.nan, 0.9])
    assert adjusted[0] == 1.0
    assert np.isnan(adjusted[1])
    assert adjusted[2] == 1.0


def test_exact_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, 8), rng.normal(0.7, 1, 8)
    labels, blocks = np.repeat([0, 1], 8), np.tile(np.arange(8), 2)
    found = arrange(labels, blocks)
    values = mean_spread(np.concatenate([first, second]), found.labels, blocks)
    actual = float(values[(found.labels == labels).all(axis=1)][0])
    theirs = stats.permutation_test(
        (first, second),
        lambda x, y, axis: abs((x - y).mean(axis=axis)),
        vectorized=True,
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert found.exact
    assert p_value(values, actual, True) == pytest.approx(theirs.pvalue)
    assert found.least_p == 2 / 2**8


def test_every_arrangement_is_there_once() -> None:
    labels, blocks = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1])
    found = arrange(labels, blocks)
    rows = {tuple(row) for row in found.labels}
    ways = itertools.product(itertools.permutations([0, 1, 2]), itertools.permutations([0, 1]))
    assert rows == {(*first, *second) for first, second in ways}
    assert len(found.labels) == found.count == 12


def test_a_large_block_is_arranged_by_choosing_not_by_ordering() -> None:
    """14 runs without common seeds: 3432 choices, but 10^11 orders."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, 7), rng.normal(0.7, 1, 7)
    labels, blocks = np.repeat([0, 1], 7), np.zeros(14, int)
    found = arrange(labels, blocks)
    values = mean_spread(np.concatenate([first, second]), found.labels, blocks)
    actual = float(values[(found.labels == labels).all(axis=1)][0])
    theirs = stats.permutation_test(
        (first, second),
        lambda x, y, axis: abs(x.mean(axis=axis) - y.mean(axis=axis)),
        vectorized=True,
        alternative="greater",
        n_resamples=np.inf,
    )
    assert len(found.labels) == 3432
    assert p_value(values, actual, found.exact) == pytest.approx(theirs.pvalue)


def test_many_arrangements_are_drawn_within_blocks() -> None:
    labels, blocks = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    found = arrange(labels, blocks)
    assert not found.exact
    assert found.labels.shape == (10_001, 40)
    assert (found.labels.reshape(-1, 20, 2).sum(axis=2) == 1).all()
    assert found.labels[1:].mean(axis=0) == pytest.approx(0.5, abs=0.03)


def test_the_gain_of_curves_is_nearly_that_of_refitted_ones() -> None:
    fits = PAIRS["power"]
    found = hypotheses(fits)
    labels = np.repeat([[0, 1]], len(BUDGETS), axis=1).reshape(1, -1)
    gained = found["one curve"].objective - found["free"].objective
    assert curve_gain(found["one curve"], labels)[0] == pytest.approx(gained, rel=0.1)


def test_names_that_do_not_matter_are_found_so() -> None:
    """P values are under 0.05 about as often as they should be; seeds share their noise."""
    labels, blocks = np.repeat([0, 1], 15), np.tile(np.arange(15), 2)
    found = arrange(labels, blocks)
    small = np.zeros(2)
    for rng in range(100):
        draw = np.random.default_rng(rng)
        shared = 3 + 0.5 * (BUDGETS / 1e6) ** -0.3 + draw.normal(0, 0.005, 15)
        losses = np.tile(shared, 2) + draw.normal(0, 0.002, 30)
        one = fit_law(Power(), np.tile(BUDGETS, 2), losses, intervals=False)
        tests = [mean_spread(losses, found.labels, blocks), curve_gain(one, found.labels)]
        small += [p_value(values, float(values[0]), found.exact) <= 0.05 for values in tests]
    assert small.max() <= 10
    assert small.min() >= 1


def test_shared_noise_does_not_hide_a_difference_from_the_exact_test() -> None:
    draw = np.random.default_rng(0)
    shared = 3 + 0.5 * (BUDGETS / 1e6) ** -0.3 + draw.normal(0, 0.01, 15)
    losses = {"a": shared + draw.normal(0, 0.001, 15), "b": shared + 0.004}
    made = study(read_losses(frame_of(losses)), ["power"])
    joint = joint_fits(made)
    assert permutation(made, joint)["p"].max() < 0.01
    assert nested(joint)["p"].iloc[0] > 0.05
