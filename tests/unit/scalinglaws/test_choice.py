"""Choice between laws, and forecasts beyond part of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scalinglaws.choice import aicc, extrapolation, leave_one_out
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import fit_law
from scalinglaws.forecasts import forecasts, holdout
from scalinglaws.laws import Power, Rectified
from scalinglaws.read import read_losses
from scalinglaws.study import Study, labels, seed_weights, study

BUDGETS = np.geomspace(1e5, 3e7, 7)
TOKENS = np.repeat(BUDGETS, 3)


def table(sd: float = 0.003, methods: tuple[str, ...] = ("random", "chosen")) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    parts = []
    for place, method in enumerate(methods):
        losses = 3 - 0.05 * place + (1 + 0.05 * place) / (1 + (TOKENS / 8e5) ** 0.8)
        parts.append(
            pd.DataFrame(
                {
                    "method": method,
                    "tokens": TOKENS,
                    "seed": [0, 1, 2] * 7,
                    "loss": losses + rng.normal(0, sd, len(TOKENS)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def made(frame: pd.DataFrame, **options: object) -> Study:
    return study(read_losses(frame), base_loss=4.0, **options)  # type: ignore[arg-type]


def test_aicc_is_that_of_normal_errors() -> None:
    """From the log-likelihood, whose constants cancel between laws."""
    frame = table()[: len(TOKENS)]
    losses = frame["loss"].to_numpy()
    fits = [fit_law(law, TOKENS, losses, intervals=False) for law in (Rectified(4.0), Power())]
    known = []
    for fit in fits:
        sd = np.sqrt(fit.objective / len(TOKENS))
        residuals = losses - fit.predict(TOKENS)
        likelihood = (-0.5 * (residuals / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)).sum()
        k = 4  # three parameters and the variance
        known.append(2 * k - 2 * likelihood + 2 * k * (k + 1) / (len(TOKENS) - k - 1))
    assert aicc(fits[1]) - aicc(fits[0]) == pytest.approx(known[1] - known[0], rel=1e-9)


def test_the_law_that_made_the_data_is_chosen() -> None:
    """The broken power law may bend as well; the plain one cannot."""
    found = made(table()).choice
    assert found.law == "rectified"
    mean = found.table.groupby("law")[["leave_one_out", "holdout"]].mean()
    assert mean.loc["power", "leave_one_out"] > 2 * mean.loc["rectified", "leave_one_out"]
    assert mean.loc["power", "holdout"] > 2 * mean.loc["rectified", "holdout"]


def test_laws_that_the_data_cannot_tell_apart_are_rivals() -> None:
    found = made(table(sd=0.2), laws=["rectified", "power", "transfer"]).choice
    assert found.law == "rectified"
    assert found.rivals
    assert not found.told_apart


def test_left_out_budgets_are_forecast_by_fits_without_them() -> None:
    frame = table()[: len(TOKENS)]
    losses = frame["loss"].to_numpy()
    fit = fit_law(Rectified(4.0), TOKENS, losses, intervals=False)
    missed = []
    for place in range(7):
        kept = np.arange(21) // 3 != place
        again = fit_law(Rectified(4.0), TOKENS[kept], losses[kept], intervals=False)
        missed.append(again.predict(TOKENS[~kept]) - losses[~kept])
    assert leave_one_out(fit) == pytest.approx(np.sqrt(np.mean(np.square(missed))), rel=1e-4)
    relative = np.abs(missed[-1] / losses[-3:])
    assert extrapolation(fit) == pytest.approx(relative.mean(), rel=1e-4)


def test_hold_out_and_forecasts_hold_the_truth() -> None:
    analysed = made(table(), laws=["rectified"])
    rows = holdout(analysed, 2)
    assert len(rows) == 4
    assert (rows["relative_error"].abs() < 0.01).all()
    truth = 3 + 1 / (1 + (rows["tokens"] / 8e5) ** 0.8)
    random = rows["method"] == "random"
    assert ((rows["ci_low"] < truth) & (truth < rows["ci_high"]))[random].all()
    ahead = forecasts(analysed).set_index("method").loc["random"]
    assert ahead["tokens"] == pytest.approx(4 * TOKENS.max())
    truth = 3 + 1 / (1 + (ahead["tokens"] / 8e5) ** 0.8)
    # Within twice the band: 95 % would fail one set of draws in twenty.
    assert abs(truth - ahead["loss"]) < ahead["ci_high"] - ahead["ci_low"]


def test_more_held_out_than_there_is_is_refused() -> None:
    with pytest.raises(AnalysisError, match="7 budgets, so 7 cannot be held out"):
        holdout(made(table(), laws=["power"]), 7)
    with pytest.raises(AnalysisError, match="no law can be fitted without the 5"):
        holdout(made(table(), laws=["power"]), 5)


def test_weights_follow_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"budget": np.repeat([1.0, 2.0], 50)})
    frame["loss"] = rng.normal(0, np.repeat([0.001, 0.01], 50))
    weights = seed_weights(frame)
    assert weights.mean() == pytest.approx(1)
    # Variances of 1:100, each averaged with two degrees of freedom of the pooled one, are 1:34.
    assert 20 < weights[0] / weights[-1] < 60
    with pytest.raises(AnalysisError, match="`none` or `seeds`, not `all`"):
        made(table(), weights="all")


def test_clusters_are_runs_or_budgets() -> None:
    frame = read_losses(table()).frame
    assert len(set(labels(frame, by_budget=False))) == 21
    assert len(set(labels(frame, by_budget=True))) == 7
    runs = frame.assign(run=frame["seed"])
    assert len(set(labels(runs, by_budget=False))) == 3
    assert made(table()).cluster_kind == "runs"
    shifted = table(sd=0.001)
    shifted["loss"] += (
        0.02 * np.resize([1, -1, 1], 7).repeat(3)[shifted.groupby("method").cumcount()]
    )
    assert made(shifted, laws=["rectified"]).cluster_kind == "budgets"
