"""How much of their curves the methods share: nested hypotheses, F tests and AICc.

one curve: all parameters shared. offset: each method has its own floor. efficiency: each method has
its own worth of a token. free: nothing is shared; these are the fits of each method alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from scalinglaws.choice import aicc
from scalinglaws.compare.holm import holm
from scalinglaws.compare.joint import fit_joint
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.study import Study

NESTED = ["methods", "hypothesis", "parameters", "sse", "aicc", "delta_aicc", "f", "p", "p_holm"]
STEPS = ["methods", "hypothesis", "f", "p", "p_holm"]
#: The name of the joint test of all methods.
ALL = "all"
ONE, OFFSET, EFFICIENCY, FREE = "one curve", "offset", "efficiency", "free"


def hypotheses(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """Joint least-squares fits by hypothesis, from the fits of each method alone."""
    fits = {method: _by_squares(fit) for method, fit in fits.items()}
    law = next(iter(fits.values())).law
    one = fit_joint(fits, ())
    alone = np.stack([fit.logs for fit in fits.values()])
    same = [
        np.repeat(row[None], len(fits), axis=0)
        for row in (one.logs, one.logs + 1, one.logs - 1, *alone)
    ]
    starts = [alone, *same]
    return {
        ONE: one,
        OFFSET: fit_joint(fits, law.offset_in, starts),
        EFFICIENCY: fit_joint(fits, law.efficiency_in, starts),
        FREE: fit_joint(fits, law.parameters, [alone]),
    }


def _by_squares(fit: Fit) -> Fit:
    if fit.delta is None:
        return fit
    problem = fit.problem
    return fit_law(fit.law, problem.x, problem.losses, problem.weights, intervals=False)


def f_test(small: Fit, large: Fit) -> tuple[float, float]:
    """F and p of the parameters by which ``large`` exceeds ``small``; NaN without degrees."""
    more = large.free_parameters - small.free_parameters
    if more <= 0 or large.degrees <= 0 or large.objective <= 0:
        return np.nan, np.nan
    gained = max(small.objective - large.objective, 0.0)
    f = gained / more / (large.objective / large.degrees)
    return float(f), float(stats.f.sf(f, more, large.degrees))


def groups_of(methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """All methods, and each pair where there are more than two, by name."""
    groups = {ALL: tuple(methods)} if len(methods) > 1 else {}
    if len(methods) > 2:
        groups |= {f"{a} vs {b}": (a, b) for a, b in combinations(methods, 2)}
    return groups


def joint_fits(study: Study) -> dict[str, dict[str, Fit]]:
    """The joint fits by group of methods and hypothesis, of the methods that have a fit."""
    fits = study.chosen
    return {
        name: hypotheses({method: fits[method] for method in methods})
        for name, methods in groups_of(list(fits)).items()
    }


def nested(fits: Mapping[str, Mapping[str, Fit]]) -> pd.DataFrame:
    """The table of ``joint_fits``: sse (nats^2), AICc, F and p against ``free``.

    Holm's p is over pairs, for each hypothesis.
    """
    frame = pd.DataFrame(list(_rows(fits)), columns=NESTED[:-1])
    return _with_holm(frame)


def _rows(groups: Mapping[str, Mapping[str, Fit]]) -> Iterator[list[object]]:
    for methods, fits in groups.items():
        scores = {name: aicc(fit) for name, fit in fits.items()}
        least = min(scores.values())
        for name, fit in fits.items():
            above = scores[name] - least if np.isfinite(scores[name]) else np.inf
            f, p = f_test(fit, fits[FREE])
            yield [methods, name, fit.free_parameters, fit.objective, scores[name], above, f, p]


def steps(fits: Mapping[str, Mapping[str, Fit]]) -> pd.DataFrame:
    """F and p of each wider hypothesis against one curve for all."""
    rows = [
        [methods, name, *f_test(by_hypothesis[ONE], fit)]
        for methods, by_hypothesis in fits.items()
        for name, fit in by_hypothesis.items()
        if name != ONE
    ]
    return _with_holm(pd.DataFrame(rows, columns=STEPS[:-1]))


def _with_holm(frame: pd.DataFrame) -> pd.DataFrame:
    frame["p_holm"] = frame["p"].astype(float)
    pairs = frame["methods"] != ALL
    for _, part in frame[pairs].groupby("hypothesis"):
        frame.loc[part.index, "p_holm"] = holm(part["p"])
    return frame
