"""From a table of losses to fits on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import band, wild
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import Fit, fit_law
from scalinglaws.laws import make_laws
from scalinglaws.read import Losses, read_losses
from scalinglaws.study import Study, labels, points_of, study

FITS, HOLDOUT, FIGURE = "fits.csv", "holdout.csv", "loss-vs-tokens"
_FIT_COLUMNS = ["law", "method", "parameter", "estimate", "ci_low", "ci_high", "converged",
                "identified"]  # fmt: skip
_HOLDOUT_COLUMNS = ["law", "method", "tokens", "loss", "predicted", "ci_low", "ci_high",
                    "relative_error"]  # fmt: skip


def analyse(
    results: pd.DataFrame | Path | str,
    out: Path,
    base_loss: float | None = None,
    laws: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fit every method, write ``fits.csv`` and the figure into ``out``, and say what happened.

    A method that cannot be fitted is said so in the summary and drawn as points; the others are
    not held up by it. Returns JSON-ready values.
    """
    made = study(read_losses(results, columns), laws, base_loss)
    out.mkdir(parents=True, exist_ok=True)
    fits_frame(made).to_csv(out / FITS, index=False)
    from scalinglaws.plot import loss_against_tokens

    loss_against_tokens(made, out / FIGURE)
    return {"base_loss": base_loss, "warnings": made.losses.warnings, "fits": _summary(made)}


def fit(
    source: pd.DataFrame | Path | str,
    out: Path,
    laws: Sequence[str] | None = None,
    holdout: int = 0,
    columns: Mapping[str, str] | None = None,
    base_loss: float | None = None,
) -> dict[str, Any]:
    """``analyse``, and a forecast of each method's ``holdout`` largest budgets from the rest."""
    summary = analyse(source, out, base_loss, laws, columns)
    if holdout:
        losses = read_losses(source, columns)
        frame = holdout_frame(losses, laws, base_loss, holdout)
        frame.to_csv(out / HOLDOUT, index=False)
        errors = frame["relative_error"].abs()
        summary["holdout"] = {
            "budgets": holdout,
            "mean_absolute_relative_error": float(errors.mean()),
        }
    return summary


def _summary(made: Study) -> list[dict[str, Any]]:
    """A line for each attempt."""
    formulas = {law.name: law.formula for law in made.laws}
    lines = [
        {"method": method, "law": name, "formula": formulas[name], **_line(result)}
        for method, by_law in made.fits.items()
        for name, result in by_law.items()
    ]
    return lines + [
        {"method": f.method, "law": f.law, "formula": formulas[f.law], "converged": False,
         "message": f.message}
        for f in made.failures
    ]  # fmt: skip


def _line(result: Fit) -> dict[str, Any]:
    told = result.diagnostics
    return {
        "converged": result.converged,
        "identified": result.identified,
        "message": result.message,
        "parameters": result.estimates,
        "residual_sd": result.residual_sd if np.isfinite(result.residual_sd) else None,
        "points": result.points,
        "gradient": told.gradient,
        "starts": told.starts,
        "starts_agreeing": told.agreeing,
        "at_bound": list(told.at_bound),
        "condition": told.condition if np.isfinite(told.condition) else None,
        "residual_tests": result.tests,
    }


def fits_frame(made: Study) -> pd.DataFrame:
    """A row a parameter; an interval that has no end is left empty on that side."""
    rows = [
        [name, method, parameter, value, *_ends(result.intervals[parameter]), result.converged,
         result.identified]
        for method, by_law in made.fits.items()
        for name, result in by_law.items()
        for parameter, value in result.estimates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=_FIT_COLUMNS)


def _ends(interval: tuple[float, float]) -> list[float]:
    return [end if np.isfinite(end) else np.nan for end in interval]


def holdout_frame(
    losses: Losses, laws: Sequence[str] | None, base_loss: float | None, count: int
) -> pd.DataFrame:
    """Each method's ``count`` largest budgets, forecast from the smaller ones.

    Raises AnalysisError where a method has no more budgets than are held out, or no law can be
    fitted to what is left.
    """
    rows = []
    reasons = []
    for method in losses.methods:
        part = losses.frame[losses.frame["method"] == method]
        budgets = np.unique(part["budget"])
        if len(budgets) <= count:
            raise AnalysisError(
                f"{method} has {len(budgets)} budgets, of which {count} cannot be held out"
            )
        kept, held = part[part["budget"] < budgets[-count]], part[part["budget"] >= budgets[-count]]
        for law in make_laws(laws, points_of(part), base_loss):
            try:
                result = fit_law(law, points_of(kept), kept["loss"].to_numpy(float))
            except AnalysisError as error:
                reasons.append(f"{method}: {error}")
                continue
            drawn = wild({method: result}, {method: labels(kept, False)})[method]
            for budget, cells in held.groupby("budget"):
                at = points_of(cells)[:1]
                actual = float(cells["loss"].mean())
                predicted = float(result.predict(at)[0])
                low, high = (float(end[0]) for end in band(drawn, at))
                rows.append([law.name, method, budget, actual, predicted, low, high,
                             predicted / actual - 1])  # fmt: skip
    if not rows:
        raise AnalysisError(f"nothing can be held out: {'; '.join(reasons)}")
    return pd.DataFrame(rows, columns=_HOLDOUT_COLUMNS)
