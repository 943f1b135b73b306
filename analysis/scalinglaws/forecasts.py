"""Forecasts of the laws beyond the data, and beyond part of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import band, quantiles, wild
from scalinglaws.choice import forecast
from scalinglaws.errors import AnalysisError
from scalinglaws.fitted import Fit
from scalinglaws.laws import Mask
from scalinglaws.study import Study, labels

#: How far beyond the largest budget a curve is looked at.
FACTOR = 4.0
FORECASTS = ["method", "law", "tokens", "loss", "ci_low", "ci_high"]
HOLDOUT = ["law", "method", "tokens", "loss", "predicted", "ci_low", "ci_high", "relative_error"]


def forecasts(study: Study, factor: float = FACTOR) -> pd.DataFrame:
    """Each converged fit's loss at ``factor`` times the method's largest budget, with a band."""
    rows = []
    for method, by_law in study.fits.items():
        for name, fit in by_law.items():
            if not fit.converged:
                continue
            at = np.array([fit.problem.x.tokens.max() * factor])
            drawn = wild({method: fit}, {method: _labels(study, method)}, seed=study.seed)[method]
            low, high = band(drawn, at)
            rows.append([method, name, at[0], fit.predict(at)[0], low[0], high[0]])
    return pd.DataFrame(rows, columns=FORECASTS)


def holdout(study: Study, count: int) -> pd.DataFrame:
    """Each method's ``count`` largest budgets, forecast by each law from the smaller ones.

    loss is the mean over a budget's cells, predicted is the curve's, ci_low and ci_high are its
    band. Raises AnalysisError where a method has no more budgets than are held out, or no law can
    be fitted to the rest.
    """
    rows = []
    for method, by_law in study.fits.items():
        frame = study.part(method)
        budgets = np.unique(frame["budget"])
        if len(budgets) <= count:
            raise AnalysisError(
                f"{method} has {len(budgets)} budgets, so {count} cannot be held out; take fewer"
            )
        kept = (frame["budget"] < budgets[-count]).to_numpy()
        for fit in by_law.values():
            rows += _held_out(study, method, fit, kept)
    if not rows:
        raise AnalysisError(f"no law can be fitted without the {count} largest budgets; take fewer")
    return pd.DataFrame(rows, columns=HOLDOUT)


def _held_out(study: Study, method: str, fit: Fit, kept: Mask) -> list[list[object]]:
    without = forecast(fit, kept)
    if without is None:
        return []
    frame = study.part(method)
    own = [label for label, here in zip(_labels(study, method), kept, strict=True) if here]
    drawn = wild({method: without}, {method: own}, seed=study.seed)[method]
    rows: list[list[object]] = []
    for budget, cells in frame[~kept].groupby("budget"):
        at = fit.problem.x[(frame["budget"] == budget).to_numpy()]
        actual, predicted = float(cells["loss"].mean()), float(without.predict(at).mean())
        low, high = quantiles(drawn.predict(at).mean(axis=1))
        if without.degrees <= 0:
            low = high = np.array(np.nan)
        rows.append(
            [
                fit.law.name,
                method,
                budget,
                actual,
                predicted,
                float(low),
                float(high),
                predicted / actual - 1,
            ]
        )
    return rows


def _labels(study: Study, method: str) -> list[str]:
    return labels(study.part(method), study.cluster_kind == "budgets")
