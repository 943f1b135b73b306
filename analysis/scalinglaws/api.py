"""From a table of losses to fits on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import Fit, fit_law
from scalinglaws.intervals import band
from scalinglaws.laws import LAWS, Law, Rectified
from scalinglaws.read import Losses, read_losses

FITS, HOLDOUT, FIGURE = "fits.csv", "holdout.csv", "loss-vs-tokens"
_FIT_COLUMNS = ["law", "method", "parameter", "estimate", "ci_low", "ci_high", "converged",
                "identified"]  # fmt: skip
_HOLDOUT_COLUMNS = ["law", "method", "tokens", "loss", "predicted", "ci_low", "ci_high",
                    "relative_error"]  # fmt: skip


def make_laws(names: Sequence[str] | None, base_loss: float | None) -> list[Law]:
    """The laws of these names; without names, all that the data allow, the rectified one first.

    Raises AnalysisError for an unknown name, or for the rectified law without a base loss.
    """
    if names is None:
        names = [name for name in LAWS if name != "rectified" or base_loss is not None]
    laws: list[Law] = []
    for name in names:
        if name not in LAWS:
            raise AnalysisError(f"there is no law `{name}`; known: {', '.join(LAWS)}")
        if LAWS[name] is not Rectified:
            laws.append(LAWS[name]())
        elif base_loss is None:
            raise AnalysisError(
                "the rectified law starts at the base model's loss; give it with --base-loss, or "
                "fit the power law"
            )
        else:
            laws.append(Rectified(base_loss))
    return laws


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
    losses = read_losses(results, columns)
    fits, summary = fit_methods(losses, make_laws(laws, base_loss))
    out.mkdir(parents=True, exist_ok=True)
    fits_frame(fits).to_csv(out / FITS, index=False)
    from scalinglaws.plot import loss_against_tokens

    drawn = {method: by_law[0] for method, by_law in fits.items() if by_law}
    loss_against_tokens(losses.frame, drawn, base_loss, out / FIGURE)
    return {"base_loss": base_loss, "warnings": losses.warnings, "fits": summary}


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
        frame = holdout_frame(losses, make_laws(laws, base_loss), holdout)
        frame.to_csv(out / HOLDOUT, index=False)
        errors = frame["relative_error"].abs()
        summary["holdout"] = {
            "budgets": holdout,
            "mean_absolute_relative_error": float(errors.mean()),
        }
    return summary


def fit_methods(
    losses: Losses, laws: Sequence[Law]
) -> tuple[dict[str, list[Fit]], list[dict[str, Any]]]:
    """Fits by method, in the order of ``laws``, and a line of summary for each attempt."""
    fits: dict[str, list[Fit]] = {}
    summary = []
    for method in losses.methods:
        fits[method] = []
        for law in laws:
            line: dict[str, Any] = {"method": method, "law": law.name, "formula": law.formula}
            try:
                result = fit_law(law, *_points(losses.frame, method))
            except AnalysisError as error:
                summary.append(line | {"converged": False, "message": str(error)})
                continue
            fits[method].append(result)
            summary.append(line | _line(result))
    return fits, summary


def _points(frame: pd.DataFrame, method: str) -> tuple[Any, Any]:
    part = frame[frame["method"] == method]
    return part["tokens"].to_numpy(float), part["loss"].to_numpy(float)


def _line(result: Fit) -> dict[str, Any]:
    return {
        "converged": result.converged,
        "identified": result.identified,
        "message": result.message,
        "parameters": result.estimates,
        "residual_sd": float(np.sqrt(result.optimum.sse / len(result.problem.losses))),
        "points": len(result.problem.losses),
        "starts_agreeing": result.optimum.agreeing,
    }


def fits_frame(fits: Mapping[str, Sequence[Fit]]) -> pd.DataFrame:
    """A row a parameter; an interval that has no end is left empty on that side."""
    rows = [
        [result.law.name, method, name, value, *_ends(result.intervals[name]), result.converged,
         result.identified]
        for method, by_law in fits.items()
        for result in by_law
        for name, value in result.estimates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=_FIT_COLUMNS)


def _ends(interval: tuple[float, float]) -> list[float]:
    return [end if np.isfinite(end) else np.nan for end in interval]


def holdout_frame(losses: Losses, laws: Sequence[Law], count: int) -> pd.DataFrame:
    """Each method's ``count`` largest budgets, forecast from the smaller ones."""
    rows = []
    for method in losses.methods:
        tokens, values = _points(losses.frame, method)
        budgets = np.unique(tokens)
        if len(budgets) <= count:
            raise AnalysisError(
                f"{method} has {len(budgets)} budgets, of which {count} cannot be held out"
            )
        kept = tokens < budgets[-count]
        for law in laws:
            result = fit_law(law, tokens[kept], values[kept])
            for budget in budgets[-count:]:
                actual = float(values[tokens == budget].mean())
                at = np.array([budget])
                predicted = float(result.predict(at)[0])
                low, high = (float(end[0]) for end in band(result, at))
                rows.append([law.name, method, budget, actual, predicted, low, high,
                             predicted / actual - 1])  # fmt: skip
    return pd.DataFrame(rows, columns=_HOLDOUT_COLUMNS)
