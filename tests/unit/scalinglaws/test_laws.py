"""Every law: exact data give their parameters back, noisy data the least that can be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, special

from scalinglaws import AnalysisError, fit_law
from scalinglaws.fitted import Fit
from scalinglaws.huber import DELTA
from scalinglaws.laws import (
    LAWS,
    Broken,
    Chinchilla,
    DataConstrained,
    Law,
    Points,
    Power,
    Rectified,
    Shape,
    Terms,
    Transfer,
    find_law,
    make_laws,
    register,
)
from scalinglaws.minimise import minimise, starts
from scalinglaws.problem import Problem, bounded_solve

Array = npt.NDArray[np.float64]
Curve = Callable[..., Array]
BUDGETS = np.repeat(np.geomspace(1e6, 1e9, 8), 3)
SIZES = np.tile(np.geomspace(1e7, 1e10, 6), 4)


@dataclass(frozen=True)
class Case:
    """A law, where it is measured, its truth, and its formula written once more."""

    law: Law
    x: Points
    truth: dict[str, float]
    curve: Curve

    @property
    def losses(self) -> Array:
        return self.curve(self.x, *self.truth.values())


def power(x: Points, e: float, b: float, beta: float) -> Array:
    return e + b / x.tokens**beta


def rectified(x: Points, e: float, half: float, beta: float, start: float = 4.0) -> Array:
    return e + (start - e) / (1 + (x.tokens / half) ** beta)


def transfer(x: Points, e: float, b: float, effective: float, beta: float) -> Array:
    return e + b / (x.tokens + effective) ** beta


def chinchilla(x: Points, e: float, a: float, b: float, alpha: float, beta: float) -> Array:
    assert x.model_size is not None
    return e + a / x.model_size**alpha + b / x.tokens**beta


def repeated(x: Points, e: float, b: float, beta: float, worth: float) -> Array:
    unique = x.unique_tokens
    assert unique is not None
    return (
        e + b / (unique + unique * worth * (1 - np.exp(-(x.tokens / unique - 1) / worth))) ** beta
    )


def broken(
    x: Points, e: float, b: float, beta: float, where: float, gamma: float, width: float
) -> Array:
    bend = (1 + (x.tokens / where) ** (1 / width)) ** (-gamma * width)
    return np.asarray(e + b * x.tokens**-beta * bend)


PLAIN = Points(BUDGETS)
CASES = {
    "power": Case(Power(), PLAIN, {"E": 2.5, "B": 400, "beta": 0.45}, power),
    "rectified": Case(Rectified(4.0), PLAIN, {"E": 3.0, "D0": 3e7, "beta": 0.6}, rectified),
    "rectified, L0 free": Case(
        Rectified(), PLAIN, {"E": 3.0, "D0": 3e7, "beta": 0.6, "L0": 4.0}, rectified
    ),
    "transfer": Case(Transfer(), PLAIN, {"E": 2.5, "B": 400, "Deff": 8e6, "beta": 0.4}, transfer),
    "chinchilla": Case(
        Chinchilla(),
        Points(np.repeat(np.geomspace(1e8, 1e11, 4), 6), SIZES),
        {"E": 1.8, "A": 480, "B": 2000, "alpha": 0.35, "beta": 0.37},
        chinchilla,
    ),
    "data-constrained": Case(
        DataConstrained(),
        Points(
            np.tile(np.geomspace(1e6, 1e9, 8), 3),
            None,
            np.minimum(np.tile(np.geomspace(1e6, 1e9, 8), 3), np.repeat([1e6, 1e7, 1e8], 8)),
        ),
        {"E": 2.5, "B": 400, "beta": 0.35, "Rstar": 15.0},
        repeated,
    ),
    "broken": Case(
        Broken(),
        PLAIN,
        {"E": 1.5, "B": 30, "beta": 0.15, "Db": 4e7, "gamma": 0.4, "width": 0.3},
        broken,
    ),
}


def test_every_law_has_a_case() -> None:
    assert {case.law.name for case in CASES.values()} == set(LAWS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_exact_data_give_the_parameters_back(case: Case) -> None:
    fit = fit_law(case.law, case.x, case.losses, intervals=False)
    assert {name: fit.estimates[name] for name in case.truth} == pytest.approx(case.truth, rel=1e-4)
    assert fit.converged
    assert fit.predict(case.x) == pytest.approx(case.losses, rel=1e-8)


def noisy(case: Case, seed: int) -> Array:
    return case.losses + np.random.default_rng(seed).normal(0, 0.004, len(case.x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_other_optimizer_finds_less_squares(case: Case, seed: int) -> None:
    losses = noisy(case, seed)
    fit = fit_law(case.law, case.x, losses, intervals=False)

    def residuals(logs: Array) -> Array:
        return case.curve(case.x, *np.exp(logs)) - losses

    begun = np.log(list(case.truth.values()))
    other = optimize.least_squares(residuals, begun, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert fit.objective <= 2 * other.cost * (1 + 1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_other_optimizer_finds_less_of_hubers_loss(case: Case) -> None:
    losses = noisy(case, 7)
    losses[::7] *= 1.02
    fit = fit_law(case.law, case.x, losses, objective="huber", intervals=False)

    def objective(logs: Array) -> float:
        missed = np.log(case.curve(case.x, *np.exp(logs))) - np.log(losses)
        return 1e3 * float(special.huber(DELTA, missed).sum())

    assert fit.objective == pytest.approx(
        objective(np.log([fit.estimates[n] for n in case.truth])) / 1e3, rel=1e-9
    )
    best = np.log(list(case.truth.values()))
    options = {"maxiter": 4000, "xatol": 1e-10, "fatol": 1e-14}
    for _ in range(3):
        best = optimize.minimize(objective, best, method="Nelder-Mead", options=options).x
    assert fit.objective <= objective(best) / 1e3 * (1 + 1e-6)


def test_repeats_past_counting_are_worth_nothing() -> None:
    x = Points(np.array([1e9, 1e12]), None, np.array([1e6, 1e6]))
    law = DataConstrained()
    _, terms = law.terms(x, np.array([[0.5]]), np.array([[15.0]]))
    # 1 epoch and 15 more: what endless repeats are worth.
    assert terms["B"] == pytest.approx(np.full((1, 2), 16e6**-0.5), rel=1e-6)


class Exponential(Law):
    """A law of one's own: the loss falls by half every so many tokens."""

    name = "exponential"
    formula = "L(D) = E + B exp(-D / tau)"
    source = "this test"
    amplitudes = ("E", "B")

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (Shape("tau", "tokens", float(x.tokens.min()), float(x.tokens.max())),)

    def terms(self, x: Points, *shapes: Array) -> Terms:
        return 0.0, {"E": 1.0, "B": np.exp(-x.tokens / shapes[0])}


def check_exponential(law: Law) -> None:
    tokens = np.linspace(1e6, 1e7, 9)
    fit = fit_law(law, tokens, 3 + 0.8 * np.exp(-tokens / 3e6))
    assert fit.identified
    assert fit.estimates == pytest.approx({"E": 3.0, "B": 0.8, "tau": 3e6}, rel=1e-6)


def test_a_law_of_ones_own_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalinglaws.laws.LAWS", dict(LAWS))
    assert register(Exponential) is Exponential
    (law,) = make_laws(["exponential"], PLAIN, None)
    check_exponential(law)


def test_a_law_of_ones_own_from_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import sys
    from types import ModuleType

    module = ModuleType("laws_of_a_user")
    module.Exponential, module.number = Exponential, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laws_of_a_user", module)
    check_exponential(find_law("laws_of_a_user:Exponential")())
    with pytest.raises(AnalysisError, match="not a subclass"):
        find_law("laws_of_a_user:number")
    with pytest.raises(AnalysisError, match="cannot be imported"):
        find_law("laws_of_a_user:Missing")
    with pytest.raises(AnalysisError, match="cannot be imported"):
        find_law("no_such_module:Law")
    with pytest.raises(AnalysisError, match="no law `exponent`; known: rectified, power"):
        find_law("exponent")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_amplitudes_are_those_of_nnls(count: int) -> None:
    rng = np.random.default_rng(count)
    scales = 10.0 ** rng.integers(-6, 7, count)
    terms = rng.uniform(0.1, 1, size=(200, 15, count)) * scales
    target = (terms / scales) @ rng.normal(0, 1, (200, count, 1))
    target = target[..., 0] + rng.normal(0, 0.1, (200, 15))
    solved = bounded_solve(terms, target, {})
    assert (solved >= 0).all()
    assert (solved == 0).any()
    for matrix, wanted, found in zip(terms / scales, target, solved * scales, strict=True):
        expected, norm = optimize.nnls(matrix, wanted)
        assert found == pytest.approx(expected, abs=1e-6)
        assert np.linalg.norm(matrix @ found - wanted) == pytest.approx(norm, rel=1e-9)


def test_fixed_amplitudes_stay_and_the_others_are_solved_around_them() -> None:
    rng = np.random.default_rng(0)
    terms, target = rng.uniform(size=(50, 10, 3)), rng.normal(1, 1, size=(50, 10))
    held = rng.uniform(0, 2, 50)
    solved = bounded_solve(terms, target, {1: held})
    assert (solved[:, 1] == held).all()
    for matrix, wanted, value, found in zip(terms, target, held, solved, strict=True):
        expected, _ = optimize.nnls(matrix[:, [0, 2]], wanted - value * matrix[:, 1])
        assert found[[0, 2]] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["E", "B", "Deff", "beta"])
def test_held_parameters_stay_and_the_rest_is_the_least(name: str) -> None:
    case = CASES["transfer"]
    losses, value = noisy(case, 1), 1.01 * case.truth[name]
    problem = Problem(case.law, case.x, losses, held={name: value})
    reached = minimise(problem, starts(problem))
    others = [other for other in case.truth if other != name]

    def residuals(logs: Array) -> Array:
        given = dict(zip(others, np.exp(logs), strict=True)) | {name: value}
        return case.curve(case.x, *(given[each] for each in case.truth)) - losses

    begun = np.log([case.truth[other] for other in others])
    other = optimize.least_squares(residuals, begun, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert reached.objective.min() <= 2 * other.cost * (1 + 1e-6)
    if name in case.law.amplitudes:
        assert (reached.amplitudes[:, case.law.amplitudes.index(name)] == value).all()


def test_weights_count_a_point_as_often() -> None:
    case = CASES["power"]
    losses, often = noisy(case, 2), np.random.default_rng(2).integers(1, 4, len(BUDGETS))
    weighted = fit_law(case.law, case.x, losses, often.astype(float), intervals=False)
    repeated_rows = np.repeat(np.arange(len(BUDGETS)), often)
    by_hand = fit_law(case.law, case.x[repeated_rows], losses[repeated_rows], intervals=False)
    assert weighted.objective == pytest.approx(by_hand.objective, rel=1e-9)
    assert weighted.estimates == pytest.approx(by_hand.estimates, rel=1e-5)


def refused(law: Law, x: Points) -> str:
    with pytest.raises(AnalysisError) as error:
        fit_law(law, x, np.full(len(x), 3.0))
    return str(error.value)


@pytest.mark.parametrize(
    ("law", "least"),
    [
        (Power(), 3),
        (Rectified(4.0), 3),
        (Rectified(), 4),
        (Transfer(), 4),
        (Broken(), 6),
    ],
)
def test_too_few_budgets_say_how_many_more(law: Law, least: int) -> None:
    tokens = np.repeat(np.geomspace(1e6, 1e8, least - 2), 3)
    said = refused(law, Points(tokens))
    assert f"needs {least} distinct budgets and there are {least - 2}; run 2 more" in said
    enough = np.geomspace(1e6, 1e8, least)
    assert isinstance(fit_law(law, enough, 3 + 30 * enough**-0.3), Fit)


def test_missing_columns_are_named() -> None:
    assert "--columns model_size=NAME" in refused(Chinchilla(), PLAIN)
    assert "--columns unique_tokens=NAME" in refused(DataConstrained(), PLAIN)
    one_size = Points(BUDGETS, np.full(len(BUDGETS), 1e8))
    assert "needs 3 model sizes and there are 1; run 2 more" in refused(Chinchilla(), one_size)


def test_laws_are_offered_where_the_data_are_there() -> None:
    def names(x: Points) -> set[str]:
        return {law.name for law in make_laws(None, x, 4.0)}

    assert names(PLAIN) == {"rectified", "power", "transfer", "broken"}
    assert names(CASES["chinchilla"].x) == {"chinchilla"}
    fresh = replace(PLAIN, unique_tokens=BUDGETS)
    assert "data-constrained" not in names(fresh)
    assert "data-constrained" in names(CASES["data-constrained"].x)
