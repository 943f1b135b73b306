"""Profile-likelihood intervals of parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats
from scalinglaws.minimise import minimise

_CONFIDENCE = 0.95
#: Distances from the estimate, in the logarithm of the parameter; beyond e^20 there is no end.
_DISTANCES = np.geomspace(1e-3, 20.0, 32)
_REFINED = 8


@dataclass(frozen=True)
class Profile:
    """How much worse the best fit is with one parameter held at ``values`` [m], ascending.

    t [m]: signed square root of the F statistic (Bates and Watts 1988, section 6.1.2).
    """

    name: str
    values: Floats
    t: Floats


def profile(fit: Fit, name: str) -> Profile:
    """The profile of a fitted parameter within its bounds; empty without degrees of freedom.

    An amplitude of exactly zero has only an upper side.
    """
    value = fit.estimates[name]
    if fit.degrees <= 0 or _exact(fit):
        return Profile(name, np.empty(0), np.empty(0))
    if value > 0:
        below, above = value * np.exp(-_DISTANCES[::-1]), value * np.exp(_DISTANCES)
    else:
        below, above = np.empty(0), fit.problem.losses.max() * np.exp(_DISTANCES - _DISTANCES[-1])
    for shape in fit.problem.free:
        if shape.name == name:
            below, above = below[below >= shape.low], above[above <= shape.high]
    t = _t(fit, name, np.concatenate([below, above]))
    t[: len(below)] *= -1
    values = np.concatenate([below, [value], above])
    return Profile(name, values, np.insert(t, len(below), 0.0))


def profile_intervals(fit: Fit, confidence: float = _CONFIDENCE) -> dict[str, tuple[float, float]]:
    """Where the sum of squares, minimised over the other parameters, reaches the F threshold.

    An end that is never reached is infinite; without degrees of freedom every end is.
    """
    if fit.degrees > 0 and _exact(fit):
        return {name: (fit.estimates[name],) * 2 for name in fit.problem.parameters}
    intervals = {}
    for name in fit.problem.parameters:
        if name in fit.problem.held:
            continue
        found = profile(fit, name)
        limit = float(stats.t.ppf(0.5 + confidence / 2, max(fit.degrees, 1)))
        intervals[name] = (_end(fit, found, limit, -1), _end(fit, found, limit, 1))
    return intervals


def _exact(fit: Fit) -> bool:
    return fit.objective <= 1e-20 * float((fit.problem.losses**2).sum())


def _t(fit: Fit, name: str, values: Floats) -> Floats:
    """Square roots of the F statistics with ``name`` held at each of ``values`` [m]."""
    names = [shape.name for shape in fit.problem.free]
    keep = [index for index, other in enumerate(names) if other != name]
    # Three starts a value: the others may have to move far once this one is held.
    aside = np.array([0.0, 1.0, -1.0])
    held = replace(fit.problem, held=fit.problem.held | {name: np.repeat(values, len(aside))})
    around = np.tile(fit.logs[keep] + aside[:, None], (len(values), 1))
    reached = minimise(held, np.clip(around, *held.bounds)).objective
    lowest = reached.reshape(len(values), -1).min(axis=1)
    return np.asarray(np.sqrt(np.maximum(lowest / fit.objective - 1, 0) * fit.degrees))


def _end(fit: Fit, found: Profile, limit: float, side: int) -> float:
    """The value at which the profile passes ``limit`` on one side; infinite if it never does."""
    if not len(found.values):
        return side * np.inf
    middle = int(np.searchsorted(found.values, fit.estimates[found.name]))
    values, t = found.values[middle:], found.t[middle:]
    if side < 0:
        values, t = found.values[middle::-1], -found.t[middle::-1]
    beyond = np.flatnonzero(t >= limit)
    if not len(beyond):
        return side * np.inf
    first = int(beyond[0])
    near, far = np.log(np.maximum(values[first - 1 : first + 1], 1e-12))
    finer = np.linspace(near, far, _REFINED + 2)[1:-1]
    across = np.concatenate([[t[first - 1]], _t(fit, found.name, np.exp(finer)), [t[first]]])
    places = np.concatenate([[near], finer, [far]])
    passed = int(np.flatnonzero(across >= limit)[0])
    below, above = across[passed - 1], across[passed]
    share = (limit - below) / (above - below)
    return float(np.exp(places[passed - 1] + share * (places[passed] - places[passed - 1])))
