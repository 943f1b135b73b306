"""Which law the data support: AICc, leave-one-budget-out and hold-out errors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats, Law, Mask, Points

#: Laws this close in AICc are not ruled out (Burnham and Anderson 2002, 2.6: 4 to 7 is
#: considerably less support, 10 essentially none).
CLOSE = 7.0


def aicc(fit: Fit) -> float:
    """Akaike's criterion for small samples (Hurvich and Tsai 1989); the variance is a parameter.

    Infinite where there are too few points for it.
    """
    count, parameters = fit.points, fit.free_parameters + 1
    if count - parameters - 1 <= 0:
        return float("inf")
    tiny = 1e-24 * float((fit.problem.losses**2).sum())
    likelihood = count * np.log(max(fit.objective, tiny) / count)
    return float(
        likelihood + 2 * parameters + 2 * parameters * (parameters + 1) / (count - parameters - 1)
    )


def forecast(fit: Fit, kept: Mask) -> Fit | None:
    """The same law on the points of the mask ``kept`` [n]; None where they are too few."""
    x: Points = fit.problem.x[kept]
    weights = None if fit.problem.weights is None else fit.problem.weights[kept]
    try:
        return fit_law(
            fit.law,
            x,
            fit.problem.losses[kept],
            weights,
            intervals=False,
            begin=fit.logs[None] + _aside(len(fit.logs)),
        )
    except AnalysisError:
        return None


def _aside(size: int) -> Floats:
    """Starts around an optimum: itself, and one step either way."""
    return np.concatenate([np.zeros((1, size)), np.ones((1, size)), -np.ones((1, size))])


def leave_one_out(fit: Fit) -> float:
    """Root mean square error (nats) of each budget's points, forecast from the other budgets."""
    tokens = fit.problem.x.tokens
    missed = []
    for budget in np.unique(tokens):
        left = tokens == budget
        without = forecast(fit, ~left)
        if without is None:
            return float("nan")
        missed.append(without.predict(fit.problem.x[left]) - fit.problem.losses[left])
    return float(np.sqrt(np.mean(np.concatenate(missed) ** 2)))


def extrapolation(fit: Fit, budgets: int = 1) -> float:
    """Mean absolute relative error of the largest budgets, forecast from the smaller ones."""
    tokens = fit.problem.x.tokens
    kept = tokens < np.unique(tokens)[-budgets]
    without = forecast(fit, kept)
    if without is None:
        return float("nan")
    actual = fit.problem.losses[~kept]
    return float(np.abs(without.predict(fit.problem.x[~kept]) / actual - 1).mean())


@dataclass(frozen=True)
class Choice:
    """table: method, law, parameters, aicc, delta_aicc, leave_one_out (nats), holdout (share).

    law: of the laws that fit every method that any law fits, the one with the least summed AICc;
    the first law asked for where others are not better. told_apart: whether AICc separates it from
    the second best.
    """

    law: str | None
    told_apart: bool
    table: pd.DataFrame
    rivals: tuple[str, ...]


def choose(fits: Mapping[str, Mapping[str, Fit]], laws: Sequence[Law]) -> Choice:
    """Compare laws over methods. A law that did not converge for a method is not a candidate."""
    rows = [
        {
            "method": method,
            "law": name,
            "parameters": fit.free_parameters,
            "aicc": aicc(fit),
            "leave_one_out": leave_one_out(fit),
            "holdout": extrapolation(fit),
            "converged": fit.converged,
            "identified": fit.identified,
        }
        for method, by_law in fits.items()
        for name, fit in by_law.items()
    ]
    columns = (
        "method law parameters aicc delta_aicc leave_one_out holdout converged identified"
    ).split()
    table = pd.DataFrame(rows, columns=[name for name in columns if name != "delta_aicc"])
    lowest = table.groupby("method")["aicc"].transform("min")
    table.insert(4, "delta_aicc", table["aicc"] - lowest)
    if table.empty:
        return Choice(None, False, table, ())
    totals = _totals(table, [law.name for law in laws])
    if not totals:
        return Choice(None, False, table, ())
    best = min(totals.values())
    close = [name for name, total in totals.items() if not total - best > CLOSE]
    return Choice(close[0], len(close) == 1 and len(totals) > 1, table, tuple(close[1:]))


def _totals(table: pd.DataFrame, laws: Sequence[str]) -> dict[str, float]:
    """AICc summed over methods, of the laws that converged for most methods, in their order."""
    good = table[table["converged"]]
    if good.empty:
        good = table
    counts = {name: int((good["law"] == name).sum()) for name in laws}
    most = max(counts.values())
    return {
        name: float(good.loc[good["law"] == name, "aicc"].sum())
        for name in laws
        if counts[name] == most
    }
