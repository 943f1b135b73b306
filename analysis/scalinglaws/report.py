"""The report of an analysis: its verdict, figures and tables on one page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

import pandas as pd

from scalinglaws.analysis import Analysis
from scalinglaws.checklist import checklist
from scalinglaws.figures import Drawing
from scalinglaws.page import Figure, Page, Section
from scalinglaws.tables import Table
from scalinglaws.tabulate import comparison_tables, fit_tables
from scalinglaws.verdict import verdict

#: Sections in their order: title, tables by name. Figures name their section.
_SECTIONS = (
    ("Losses and curves", ("parameters", "forecasts")),
    (
        "Comparison of methods",
        (
            "differences",
            "multipliers",
            "efficiency",
            "crossovers",
            "iso-loss",
            "nested-tests",
            "nested-steps",
            "permutation",
            "ranking",
        ),
    ),
    ("Domains", ("domains",)),
    ("Can the fits be believed?", ("model-choice", "diagnostics", "holdout")),
    ("Runs and costs", ("costs", "overlap")),
    ("Data", ("cells", "left-out")),
)
#: Inches from which a figure takes the whole width of the page.
_WIDE = 5.0


def tables(analysis: Analysis) -> list[Table]:
    """Every table of the analysis that has rows."""
    made = fit_tables(analysis.study, analysis.ahead)
    if analysis.comparison is not None:
        made += comparison_tables(analysis.comparison)
    inputs = analysis.inputs
    if analysis.held_out is not None:
        made.append(
            Table(
                "holdout",
                "The largest budgets, forecast from the smaller ones.",
                analysis.held_out,
                formats={"relative_error": "percent", "predicted": "loss"},
            )
        )
    for name, caption, frame in (
        ("costs", "What selection cost.", inputs.costs),
        ("overlap", "What two methods' selections share.", inputs.overlap),
        ("left-out", "Rows that were left out, and why.", inputs.losses.left_out),
    ):
        if frame is not None:
            made.append(Table(name, caption, frame, formats={"flops": "number"}))
    made.append(
        Table(
            "checklist",
            "Reproducibility, after the checklist of (Mis)fitting.",
            checklist(analysis.study, inputs, analysis.options.holdout),
        )
    )
    return [table for table in made if not table.frame.empty]


def page(
    analysis: Analysis,
    drawing: Drawing,
    pictures: Mapping[str, str],
    now: datetime | None = None,
) -> Page:
    """The page of an analysis and its figures.

    pictures: each figure's SVG text by name. now: the time that the page shows.
    """
    by_name = {table.name: table for table in tables(analysis)}
    setting = analysis.inputs.setting or {}
    name = (setting.get("sweep") or {}).get("name") or analysis.inputs.source
    made = now or datetime.now(timezone.utc)
    skipped = [f"Not drawn: {what}: {why}." for what, why in drawing.skipped.items()]
    notes = analysis.comparison.notes if analysis.comparison else ()
    texts = {"Comparison of methods": "\n\n".join(notes)}
    sections = []
    for title, names in _SECTIONS:
        items: tuple[Figure | Table, ...] = (
            *_figures(drawing, pictures, title),
            *_chosen(by_name, names),
        )
        sections.append(Section(title, texts.get(title, ""), items))
    return Page(
        title=f"Scaling laws of data selection: {name}",
        subtitle=_subtitle(analysis),
        verdict=tuple(verdict(analysis.study, analysis.comparison, analysis.ahead)),
        generated=made.strftime("%Y-%m-%d %H:%M UTC"),
        warnings=(*analysis.warnings, *skipped),
        sections=tuple(section for section in sections if section.items),
        provenance=provenance(analysis),
        checklist=by_name.get("checklist"),
    )


def _subtitle(analysis: Analysis) -> str:
    frame = analysis.inputs.losses.frame
    law = analysis.study.law
    return (
        f"{len(frame)} runs, {frame['method'].nunique()} selection methods, "
        f"{frame['budget'].nunique()} token budgets"
        + (f", compared by the {law} law" if law else ", no law fitted")
    )


def _chosen(by_name: dict[str, Table], names: tuple[str, ...]) -> list[Table]:
    return [by_name[name] for name in names if name in by_name]


def _figures(drawing: Drawing, pictures: Mapping[str, str], section: str) -> list[Figure]:
    return [
        Figure(
            drawn.name,
            drawn.caption,
            drawn.alt,
            pictures[drawn.name],
            wide=drawn.figure.get_size_inches()[0] > _WIDE,
        )
        for drawn in drawing.drawn
        if drawn.section == section
    ]


def provenance(analysis: Analysis) -> Table | None:
    """Where each number comes from: the run's cell and the fingerprint of all that decides it."""
    results = analysis.inputs.results
    names = ["method", "tokens", "seed", "loss", "cell", "fingerprint"]
    known = [name for name in names if name in results]
    if "loss" not in known:
        return None
    frame: pd.DataFrame = results[known]
    return Table(
        "provenance", f"Runs behind the numbers, as {analysis.inputs.source} has them.", frame
    )
