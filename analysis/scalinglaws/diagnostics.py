"""Tests of a fit's residuals."""

from __future__ import annotations

import numpy as np
from scipy import stats

from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats


def residual_tests(fit: Fit) -> dict[str, float]:
    """P values by test; a test that the design does not allow is left out.

    lack_of_fit: F test of budget means against the spread of seeds (Draper and Smith 1998, 2.1);
    spread_with_tokens: Breusch and Pagan (1979) against log tokens, Koenker's form; normality:
    Shapiro and Wilk (1965); order: runs of one sign along the tokens (Wald and Wolfowitz 1940).
    """
    residuals = fit.problem.losses - fit.predict(fit.problem.x)
    if fit.degrees <= 0 or not np.ptp(residuals) > 1e-12 * np.abs(fit.problem.losses).max():
        return {}
    tokens = fit.problem.x.tokens
    found = {
        "lack_of_fit": lack_of_fit(fit, residuals),
        "spread_with_tokens": _spread(tokens, residuals),
        "normality": float(stats.shapiro(residuals).pvalue) if len(residuals) >= 8 else np.nan,
        "order": _runs(residuals[np.argsort(tokens, kind="stable")]),
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def lack_of_fit(fit: Fit, residuals: Floats) -> float:
    """P value of budget means lying farther from the curve than the seeds' spread explains."""
    settings = np.stack([v for _, v in fit.problem.x.given()])
    _, place = np.unique(settings, axis=1, return_inverse=True)
    place = place.reshape(-1)
    counts = np.bincount(place)
    means = np.bincount(place, residuals) / counts
    pure = float(((residuals - means[place]) ** 2).sum())
    within, between = len(residuals) - len(counts), len(counts) - fit.free_parameters
    if within <= 0 or between <= 0 or pure <= 0:
        return float("nan")
    missed = float((counts * means**2).sum())
    return float(stats.f.sf((missed / between) / (pure / within), between, within))


def _spread(tokens: Floats, residuals: Floats) -> float:
    squares, level = residuals**2, np.log(tokens)
    if not np.ptp(level) or not np.ptp(squares):
        return float("nan")
    explained = float(np.corrcoef(squares, level)[0, 1] ** 2)
    return float(stats.chi2.sf(len(residuals) * explained, 1))


def _runs(residuals: Floats) -> float:
    signs = residuals > 0
    above, below = int(signs.sum()), int((~signs).sum())
    if min(above, below) < 3:
        return float("nan")
    count = above + below
    runs = 1 + int((signs[1:] != signs[:-1]).sum())
    mean = 1 + 2 * above * below / count
    variance = (mean - 1) * (mean - 2) / (count - 1)
    return float(2 * stats.norm.sf(abs(runs - mean) / np.sqrt(variance)))
