"""Write the fits, tables, figures and report of an analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalinglaws.analysis import Analysis, Options
from scalinglaws.figures import Drawing, draw_all, save
from scalinglaws.fitted import Fit
from scalinglaws.forecasts import FACTOR
from scalinglaws.page import Sentence, render
from scalinglaws.report import page, tables
from scalinglaws.tables import write_table
from scalinglaws.tabulate import parameters
from scalinglaws.verdict import verdict

FITS, HOLDOUT, REPORT = "fits.csv", "holdout.csv", "report.html"
FIGURES, TABLES, HEADLINE = "figures", "tables", "loss-vs-tokens"


def analyse(
    source: Analysis | Path | str | pd.DataFrame, out: Path, **options: Any
) -> dict[str, Any]:
    """Write fits, tables, figures and ``report.html`` into ``out``.

    options: the fields of ``Options``. A method or law that cannot be fitted is reported and does
    not stop the others. Returns the summary, JSON-ready. Raises AnalysisError where nothing can be
    analysed.
    """
    analysis = source if isinstance(source, Analysis) else Analysis(source, Options(**options))
    write_fits(analysis, out, figure=False)
    for folder in (FIGURES, TABLES):
        _clear(out / folder)
    write_tables(analysis, out / TABLES)
    drawing = draw(analysis)
    written = _save(drawing, out)
    pictures = {f.stem: f.read_text(encoding="utf-8") for f in written if f.suffix == ".svg"}
    (out / REPORT).write_text(render(page(analysis, drawing, pictures)), encoding="utf-8")
    return summary(analysis)


def _clear(folder: Path) -> None:
    """Remove what an earlier analysis wrote: it may have had other methods."""
    for suffix in ("png", "pdf", "svg", "csv", "json", "tex"):
        for path in folder.glob(f"*.{suffix}"):
            path.unlink()


def write_fits(analysis: Analysis, out: Path, figure: bool = True) -> list[Path]:
    """Write ``fits.csv``, ``holdout.csv`` if asked for, and the figure of losses and curves."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / FITS]
    parameters(analysis.study).to_csv(written[0], index=False)
    if analysis.held_out is not None:
        written.append(out / HOLDOUT)
        analysis.held_out.to_csv(written[1], index=False)
    if figure:
        written += _save(draw(analysis, only=HEADLINE), out)
    return written


def write_tables(analysis: Analysis, out: Path) -> list[Path]:
    """Write every table as CSV, JSON and LaTeX."""
    return [path for table in tables(analysis) for path in write_table(table, out)]


def write_figures(analysis: Analysis, out: Path) -> tuple[list[Path], dict[str, str]]:
    """Write every figure as PNG, PDF and SVG; return the paths, and why others were not drawn."""
    drawing = draw(analysis)
    return _save(drawing, out), dict(drawing.skipped)


def draw(analysis: Analysis, only: str | None = None) -> Drawing:
    """All figures that the data allow, or only the figure named ``only``."""
    inputs = analysis.inputs
    extras = {
        "trajectories": inputs.trajectories,
        "overlap": inputs.overlap,
        "costs": inputs.costs,
        "results": inputs.results,
    }
    comparison = None if only else analysis.comparison
    return draw_all(analysis.study, comparison, extras, only=only)


def _save(drawing: Drawing, out: Path) -> list[Path]:
    """The figure of losses and curves goes into ``out``, the others into a folder in it."""
    return [
        path
        for drawn in drawing.drawn
        for path in save(drawn.figure, out if drawn.name == HEADLINE else out / FIGURES, drawn.name)
    ]


def sentences(analysis: Analysis) -> list[Sentence]:
    """The sentences of the verdict."""
    return verdict(analysis.study, analysis.comparison, analysis.ahead)


def summary(analysis: Analysis) -> dict[str, Any]:
    """The results, JSON-ready: verdict, warnings, law, and one entry for each fit tried."""
    study = analysis.study
    formulas = {law.name: law.formula for law in study.laws}
    lines = [
        {"method": method, "law": name, "formula": formulas[name], **_line(fit)}
        for method, by_law in study.fits.items()
        for name, fit in by_law.items()
    ]
    lines += [
        {
            "method": failed.method,
            "law": failed.law,
            "formula": formulas[failed.law],
            "converged": False,
            "identified": False,
            "message": failed.message,
        }
        for failed in study.failures
    ]
    told: dict[str, Any] = {
        "base_loss": analysis.inputs.base_loss,
        "law": study.law,
        "verdict": [{"text": s.text, "level": s.level} for s in sentences(analysis)],
        "warnings": analysis.warnings,
        "left_out": len(analysis.inputs.losses.left_out),
        "forecast_factor": FACTOR,
        "fits": lines,
    }
    if analysis.held_out is not None:
        errors = analysis.held_out["relative_error"].abs()
        told["holdout"] = {
            "budgets": analysis.options.holdout,
            "mean_absolute_relative_error": float(errors.mean()),
        }
    json.dumps(told, allow_nan=False)
    return told


def _line(fit: Fit) -> dict[str, Any]:
    told = fit.diagnostics
    return {
        "converged": fit.converged,
        "identified": fit.identified,
        "message": fit.message,
        "parameters": fit.estimates,
        "residual_sd": _finite(fit.residual_sd),
        "points": fit.points,
        "gradient": told.gradient,
        "starts": told.starts,
        "starts_agreeing": told.agreeing,
        "at_bound": list(told.at_bound),
        "condition": _finite(told.condition),
        "residual_tests": fit.tests,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
