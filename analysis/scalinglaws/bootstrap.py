"""Resampled fits: bands of curves, and intervals of anything that follows from them.

Wild cluster bootstrap (Cameron, Gelbach and Miller 2008) with Webb's six-point weights: the noise
that a cluster's residuals show is multiplied by one random number, and the law is fitted again. A
cluster is one run, or one whole budget where the means of budgets scatter more than the seeds
explain. Clusters that carry the same label get the same number in every method: differences are
paired.

Few points make residuals too small and normal quantiles too narrow. There are three corrections.
The residuals of a cluster are those of the fit without it (the jackknife's, CR3). Those of a single
point are mixed with those of points drawn at random, because one residual says little about its own
variance. Each draw is scaled by sqrt(degrees / chi2 draw), so that quantiles of the draws are
Student's t, whatever is computed from them. All of this is linear in the residuals: what methods
have in common cancels in their differences. docs/analysis.md shows the coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from scalinglaws.fitted import Fit, tangents
from scalinglaws.huber import minimise_huber
from scalinglaws.laws import Floats, Points
from scalinglaws.minimise import minimise
from scalinglaws.problem import Problem

DRAWS = 1000
_CONFIDENCE = 0.95
_WEBB = np.sqrt(np.array([0.5, 1.0, 1.5]))
#: Least share of a residual that is left where the fit goes through its own points.
_SHARE = 0.05


@dataclass(frozen=True)
class Draws:
    """Refitted parameters of one fit: log shapes [R, p] and amplitudes [R, k]."""

    fit: Fit
    logs: Floats
    amplitudes: Floats

    def __len__(self) -> int:
        return len(self.logs)

    def predict(self, x: Points | Floats) -> Floats:
        """The curves [R, m] of all draws."""
        at = x if isinstance(x, Points) else self.fit.problem.x.at(np.asarray(x, float))
        return self.fit.problem.curve(self.logs, self.amplitudes, at)

    def values(self, name: str) -> Floats:
        """A parameter's value in each draw [R]."""
        if name in self.fit.law.amplitudes:
            return self.amplitudes[:, self.fit.law.amplitudes.index(name)]
        names = [shape.name for shape in self.fit.problem.free]
        values: Floats = np.exp(self.logs[:, names.index(name)])
        return values


def quantiles(values: Floats, confidence: float = _CONFIDENCE) -> tuple[Floats, Floats]:
    """The interval's two ends over the first axis; infinite draws count as infinite values."""
    tail = (1 - confidence) / 2
    low = np.quantile(values, tail, axis=0, method="lower")
    high = np.quantile(values, 1 - tail, axis=0, method="higher")
    return low, high


def wild(
    fits: Mapping[str, Fit],
    clusters: Mapping[str, Sequence[str]],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Draws]:
    """Refit each fit to its curve plus its residuals, with multipliers that all fits share.

    clusters: for each fit, one label per point [n]; one label has the same draws in all fits.
    """
    rng = np.random.default_rng(seed)
    labels = sorted({label for each in clusters.values() for label in each})
    place = {label: index for index, label in enumerate(labels)}
    multipliers = rng.choice(np.concatenate([-_WEBB, _WEBB]), size=(draws, len(labels)))
    level = rng.random(draws)
    partners = rng.random(multipliers.shape)
    others = rng.choice(np.concatenate([-_WEBB, _WEBB]), size=multipliers.shape)
    drawn = {}
    for name, fit in fits.items():
        own = np.array([place[label] for label in clusters[name]])
        errors = multipliers[:, own] * noise(fit, own)
        alone = np.bincount(own)[own] == 1
        pooled = others[:, own] * _pooled(fit, own, partners[:, own])
        errors[:, alone] = ((errors + pooled) / np.sqrt(2))[:, alone]
        degrees = max(len(np.unique(own)) - fit.free_parameters, 1)
        scale = np.sqrt(degrees / stats.chi2.ppf(level, degrees))
        drawn[name] = _refit(fit, scale[:, None] * errors)
    return drawn


def _pooled(fit: Fit, clusters: npt.NDArray[np.int64], partners: Floats) -> Floats:
    """Residuals [R, n] of points drawn by ``partners`` in [0, 1), of the variance of the noise.

    Points are counted in the order of their clusters: methods with the same runs draw the same.
    """
    if fit.degrees <= 0:
        return np.zeros_like(partners)
    scale = _scale(fit)
    residuals = scale * (fit.problem.losses - fit.predict(fit.problem.x))
    ordered = residuals[np.argsort(clusters, kind="stable")] * np.sqrt(fit.points / fit.degrees)
    return np.asarray(ordered[(partners * fit.points).astype(int)] / scale)


def _scale(fit: Fit) -> Floats:
    """What makes the residuals [n] of one variance, by the fit's weights."""
    return np.ones(fit.points) if fit.problem.weights is None else np.sqrt(fit.problem.weights)


def noise(fit: Fit, clusters: npt.NDArray[np.int64]) -> Floats:
    """What each point's residual [n] would be without the pull of its own cluster."""
    if fit.degrees <= 0:
        return np.zeros(fit.points)
    scale = _scale(fit)
    residuals = scale * (fit.problem.losses - fit.predict(fit.problem.x))
    basis, _ = np.linalg.qr(scale[:, None] * tangents(fit, fit.problem.x))
    freed = np.empty_like(residuals)
    for cluster in np.unique(clusters):
        own = clusters == cluster
        within = np.eye(int(own.sum())) - basis[own] @ basis[own].T
        share, axes = np.linalg.eigh(within)
        freed[own] = axes @ ((axes.T @ residuals[own]) / np.maximum(share, _SHARE))
    return np.asarray(freed / scale)


def _refit(fit: Fit, errors: Floats) -> Draws:
    problem = replace(fit.problem, losses=fit.predict(fit.problem.x) + errors)
    reached = minimise(problem, np.repeat(fit.logs[None], len(errors), axis=0))
    return Draws(fit, reached.logs, reached.amplitudes)


def pairs(fit: Fit, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Refits to points drawn with replacement, for fits by Huber's loss (Besiroglu et al. 2024)."""
    rng = np.random.default_rng(seed)
    count = fit.points
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    weights = drawn if fit.problem.weights is None else drawn * fit.problem.weights
    problem: Problem = replace(fit.problem, weights=weights)
    assert fit.delta is not None
    whole = np.concatenate([np.log(np.maximum(fit.amplitudes, 1e-26)), fit.logs])
    reached = minimise_huber(problem, np.repeat(whole[None], draws, axis=0), fit.delta)
    return Draws(fit, reached.logs, reached.amplitudes)


def pair_intervals(fit: Fit, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """Percentile intervals of a Huber fit's parameters."""
    resampled = pairs(fit, draws)
    ends = {name: quantiles(resampled.values(name)) for name in fit.problem.parameters}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def band(resampled: Draws, x: Points | Floats) -> tuple[Floats, Floats]:
    """Pointwise 95 % band [m] of the curve; NaN without degrees of freedom."""
    low, high = quantiles(resampled.predict(x))
    if resampled.fit.degrees <= 0:
        return np.full_like(low, np.nan), np.full_like(high, np.nan)
    return low, high
