from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from scalinglaws import Analysis, AnalysisError, Options, fit_law
from scalinglaws.api import summary, write_fits
from scalinglaws.bootstrap import band, wild
from scalinglaws.laws import Power, Rectified

BUDGETS = np.repeat(np.geomspace(1e5, 1e7, 6), 3)


def rectified(tokens: np.ndarray, floor: float, start: float, half: float, beta: float):  # type: ignore[no-untyped-def,type-arg]
    return floor + (start - floor) / (1 + (tokens / half) ** beta)


def test_the_rectified_law_is_recovered_from_exact_data() -> None:
    losses = rectified(BUDGETS, 3.0, 4.0, 8e5, 0.6)
    fit = fit_law(Rectified(4.0), BUDGETS, losses)
    assert fit.converged
    assert fit.estimates == pytest.approx({"E": 3.0, "L0": 4.0, "D0": 8e5, "beta": 0.6}, rel=1e-4)


def test_the_power_law_is_recovered_from_exact_data() -> None:
    fit = fit_law(Power(), BUDGETS, 2.5 + 400 * BUDGETS**-0.45)
    assert fit.converged
    assert fit.estimates == pytest.approx({"E": 2.5, "B": 400, "beta": 0.45}, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_optimizer_finds_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rectified(BUDGETS, 3.0, 4.0, 8e5, 0.6) + rng.normal(0, 0.01, len(BUDGETS))
    fit = fit_law(Rectified(4.0), BUDGETS, losses)

    def residuals(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return rectified(BUDGETS, x[0], 4.0, np.exp(x[1]), np.exp(x[2])) - losses

    truth = [3.0, np.log(8e5), np.log(0.6)]
    other = optimize.least_squares(residuals, truth, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert fit.objective == pytest.approx(2 * other.cost, rel=1e-6)
    assert fit.objective <= 2 * other.cost * (1 + 1e-9)


def test_profile_intervals_of_a_linear_parameter_are_the_t_intervals() -> None:
    """With the shape nearly known, the F profile of an amplitude is the textbook interval."""
    rng = np.random.default_rng(3)
    tokens = np.repeat(np.geomspace(1e4, 1e8, 12), 20)
    fit = fit_law(Power(), tokens, 2.5 + 400 * tokens**-0.45 + rng.normal(0, 0.01, len(tokens)))
    low, high = fit.intervals["E"]
    design = np.stack(
        [np.ones_like(tokens), tokens**-0.45, -400 * np.log(tokens) * tokens**-0.45], axis=1
    )
    variance = np.linalg.inv(design.T @ design)[0, 0] * fit.objective / (len(tokens) - 3)
    assert (high - low) / 2 == pytest.approx(1.97 * np.sqrt(variance), rel=0.05)
    assert low < fit.estimates["E"] < high


def test_intervals_and_bands_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    tokens = np.repeat(np.geomspace(1e5, 1e7, 5), 3)
    held = {"E": 0, "D0": 0, "beta": 0, "band": 0}
    truth = {"E": 3.0, "D0": 8e5, "beta": 0.9}
    at = np.array([1e6])
    runs = 60
    for _ in range(runs):
        losses = rectified(tokens, 3.0, 4.0, 8e5, 0.9) + rng.normal(0, 0.005, len(tokens))
        fit = fit_law(Rectified(4.0), tokens, losses)
        for name, value in truth.items():
            held[name] += fit.intervals[name][0] <= value <= fit.intervals[name][1]
        drawn = wild({"all": fit}, {"all": [str(i) for i in range(len(tokens))]}, 200)["all"]
        low, high = band(drawn, at)
        held["band"] += bool(low[0] <= rectified(at, 3.0, 4.0, 8e5, 0.9)[0] <= high[0])
    for name, count in held.items():
        # 95 % of 60 is 57, its standard deviation 1.7; docs/analysis.md has the table.
        assert count / runs >= 0.86, f"{name}: {count} of {runs}"


def test_what_the_data_leave_open_is_said() -> None:
    rng = np.random.default_rng(0)
    flat = fit_law(Rectified(4.0), BUDGETS, 3.9 + rng.normal(0, 0.05, len(BUDGETS)))
    assert not flat.identified
    assert "open interval" in flat.message or "bound" in flat.message


def test_rising_losses_are_no_success() -> None:
    fit = fit_law(Power(), BUDGETS, 3 + 0.1 * np.log(BUDGETS))
    assert not fit.converged
    assert "bound" in fit.message


def test_too_few_budgets_say_how_many_more() -> None:
    with pytest.raises(AnalysisError, match="needs 3 distinct budgets and there are 2; run 1 more"):
        fit_law(Power(), np.array([1e5, 1e6, 1e6]), np.array([3.0, 2.9, 2.91]))


def frame() -> pd.DataFrame:
    rows = []
    for method, floor in (("random", 3.0), ("chosen", 2.9)):
        for seed in range(2):
            for tokens in (1e5, 2e5, 4e5, 8e5):
                loss = rectified(np.array([tokens]), floor, 4.0, 3e5, 0.8)[0] + 0.002 * seed
                rows.append({"method": method, "tokens": tokens, "loss": loss, "seed": seed})
    return pd.DataFrame(rows)


def test_a_bad_method_does_not_sink_the_others(tmp_path: Path) -> None:
    short = pd.DataFrame([{"method": "short", "tokens": 1e5, "loss": 3.5, "seed": 0}])
    analysis = Analysis(pd.concat([frame(), short]), Options(base_loss=4.0))
    write_fits(analysis, tmp_path)
    fits = pd.read_csv(tmp_path / "fits.csv")
    assert set(fits["method"]) == {"random", "chosen"}
    assert set(fits["law"]) == {"rectified", "power", "transfer"}
    said = [line["message"] for line in summary(analysis)["fits"] if line["method"] == "short"]
    assert len(said) == 4
    assert all("run" in message and "more" in message for message in said)
    assert (tmp_path / "loss-vs-tokens.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "loss-vs-tokens.pdf").read_bytes().startswith(b"%PDF")


def test_without_a_base_loss_it_is_fitted(tmp_path: Path) -> None:
    write_fits(Analysis(frame(), Options(laws=("rectified",))), tmp_path, figure=False)
    fits = pd.read_csv(tmp_path / "fits.csv")
    found = fits[(fits["method"] == "random") & (fits["parameter"] == "L0")].iloc[0]
    assert found["ci_low"] < 4.0 < found["ci_high"]


def test_unknown_laws_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no law `linear`; known: rectified, power"):
        write_fits(Analysis(frame(), Options(laws=("linear",))), tmp_path)


def test_names_of_the_package_are_functions_whatever_was_imported_before() -> None:
    import importlib
    import pkgutil

    import scalinglaws

    for module in pkgutil.iter_modules(scalinglaws.__path__):
        importlib.import_module(f"scalinglaws.{module.name}")
    assert callable(scalinglaws.analyse)
    assert callable(scalinglaws.fit_law)
    assert callable(scalinglaws.Analysis)
    assert scalinglaws.LAWS
