"""``hpcscale plan-power``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from scalinglaws.inputs import Inputs
    from scalinglaws.pilot import Basis
    from scalinglaws.power import Design, Effect


@click.command("plan-power")
@click.argument(
    "source", metavar="[SWEEP.yaml|RUN|CSV]", required=False, type=click.Path(path_type=Path)
)
@click.option("--effect", type=float, metavar="NATS", help="Difference to find; default: 0.01.")
@click.option("--multiplier", type=float, metavar="X", help="Or as a token multiplier: 1.2.")
@click.option("--noise", type=float, metavar="NATS", help="Seed sd; default: measured, or 0.002.")
@click.option(
    "--correlation", type=float, help="Of two methods' losses at one seed; default: measured, or 0."
)
@click.option(
    "--reducible",
    type=float,
    metavar="NATS",
    help="Loss above the curve's floor at the smallest budget; default: the run's curve, or 0.45.",
)
@click.option("--exponent", type=float, help="Of that curve; default: the run's, or 0.3.")
@click.option("--budgets", metavar="LIST", help="1M,4M,16M or 1M:300M:6 (six from 1M to 300M).")
@click.option("--seeds", type=click.IntRange(1), help="Seeds a cell.")
@click.option("--methods", type=click.IntRange(1), help="Methods, the reference among them.")
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True, help="Wanted.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Names in the CSV: tokens=D,loss=L.")
def command(
    source: Path | None,
    effect: float | None,
    multiplier: float | None,
    noise: float | None,
    correlation: float | None,
    reducible: float | None,
    exponent: float | None,
    budgets: str | None,
    seeds: int | None,
    methods: int | None,
    confidence: float,
    power: float,
    columns: str | None,
) -> None:
    """What a grid can tell apart, and how many seeds and budgets would suffice.

    Grid, noise and curve come from a sweep file, a run directory or a table of losses, as far as
    options do not state them.
    """
    from dataclasses import replace

    from hpcscale.errors import DataError
    from scalinglaws.errors import AnalysisError
    from scalinglaws.pilot import basis
    from scalinglaws.power import NATS, Effect

    try:
        design, pilot = _read(source, columns, budgets, seeds, methods)
        design = replace(design, confidence=confidence, power=power)
        if effect is None and multiplier is None:
            effect = NATS
        known = basis(design, pilot, noise, correlation, reducible, exponent)
        click.echo(_text(design, known, Effect(effect, multiplier)))
    except AnalysisError as error:
        raise DataError(str(error)) from None


def _read(
    source: Path | None,
    columns: str | None,
    budgets: str | None,
    seeds: int | None,
    methods: int | None,
) -> tuple[Design, Inputs | None]:
    """The grid and the earlier losses that ``source`` and the options give."""
    from hpcscale.cli.analysis_options import columns_of
    from hpcscale.config.load import load_sweep
    from hpcscale.opened import run_directory
    from hpcscale.preview.power import design_of, pilot_of
    from scalinglaws.inputs import read_inputs
    from scalinglaws.power import Design

    pilot, grid = None, None
    if source is not None and source.suffix in (".yaml", ".yml"):
        config = load_sweep(source)
        grid, pilot = design_of(config), pilot_of(run_directory(config))
    elif source is not None:
        inside = source / "analysis"
        pilot = read_inputs(inside if inside.is_dir() else source, columns_of(columns))
        frame = pilot.losses.frame
        cells = frame.groupby(["method", "budget"]).size()
        # A pilot of one method stands for a comparison with another.
        grid = Design(
            tuple(frame["budget"].unique()), int(cells.median()), max(2, len(pilot.losses.methods))
        )
    if grid is None and budgets is None:
        raise click.UsageError("name a sweep file, a run or a CSV, or give --budgets 1M:300M:6")
    return Design(
        grid.budgets if grid and budgets is None else _budgets(budgets or ""),
        seeds or (grid.seeds if grid else 3),
        methods or (grid.methods if grid else 2),
    ), pilot


def _budgets(text: str) -> tuple[int, ...]:
    from pydantic import TypeAdapter, ValidationError

    from hpcscale.config.sweep import Budgets
    from hpcscale.errors import ConfigError

    ends = [word.strip() for word in text.split(":")]
    listed = [word.strip() for word in text.split(",")]
    try:
        wanted: tuple[int, ...] = TypeAdapter(Budgets).validate_python(
            {"geomspace": ends} if len(ends) > 1 else listed
        )
    except (ValidationError, ConfigError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"--budgets {text}: {why}") from None
    return wanted


def _text(design: Design, known: Basis, effect: Effect) -> str:
    from scalinglaws.power import doubts

    lines = _head(design, known)
    if design.methods > 1:
        lines += ["", *_seen_lines(design, known, effect)]
    lines += ["", *_curve_lines(design, known)]
    lines += [f"warning: {said}" for said in doubts(design, known.noise, known.curve, [effect])]
    return "\n".join(lines)


def _head(design: Design, known: Basis) -> list[str]:
    from hpcscale.units import format_rate

    low, high = (format_rate(float(end)) for end in design.tokens[[0, -1]])
    cells = design.methods * len(design.budgets) * design.seeds
    shared = design.methods - 1
    among = f", shared by {shared} comparisons to the reference" if shared > 1 else ""
    return [
        f"grid:   {design.methods} methods x {len(design.budgets)} budgets ({low} to {high} "
        f"tokens, {design.decades:.1f} decades) x {design.seeds} seeds = {cells} cells",
        f"noise:  {known.noise_from}",
        f"curve:  {known.curve_from}",
        f"tests:  {design.confidence:.0%} confidence{among}; power {design.power:.0%}",
    ]


def _seen_lines(design: Design, known: Basis, effect: Effect) -> list[str]:
    from hpcscale.units import format_rate
    from scalinglaws.power import detectable, power

    lines = [f"{'told apart':<24}{'nats':>9}{'tokens':>10}{f'chance to see {effect}':>34}"]
    chances = power(effect, design, known.noise, known.curve)
    for least, chance in zip(
        detectable(design, known.noise, known.curve).itertuples(), chances.itertuples(), strict=True
    ):
        where = "" if least.comparison == "all budgets" else f", {format_rate(least.budget)}"
        times = f"{least.multiplier:.3g} x" if least.multiplier < 1e3 else "never"
        nats = f"{least.nats:.2g}" if least.nats < 1e3 else "never"
        lines.append(
            f"{least.comparison + where:<24}{nats:>9}{times:>10}{_percent(chance.power):>34}"
        )
    whole, largest = chances["power"].iloc[0], chances["power"].iloc[len(design.budgets)]
    return [
        *lines,
        f"This grid sees {effect} over all budgets with a chance of {_percent(whole)}, and at the "
        f"largest budget alone with {_percent(largest)}.",
        "",
        *_required_lines(design, known, effect),
    ]


def _percent(chance: float) -> str:
    return ">99%" if chance > 0.995 else f"{chance:.0%}"


def _required_lines(design: Design, known: Basis, effect: Effect) -> list[str]:
    from hpcscale.units import format_rate
    from scalinglaws.power import required

    lines = [
        f"fewest seeds that see {effect} over all budgets of the same range:",
        f"{'budgets':>9}{'seeds':>8}{'cells':>8}{'tokens':>9}{'power':>8}",
    ]
    for row in required(effect, known.noise, design, known.curve).itertuples():
        if row.seeds:
            lines.append(
                f"{row.budgets:>9}{row.seeds:>8}{row.cells:>8.0f}"
                f"{format_rate(row.tokens):>9}{_percent(row.power):>8}"
            )
        else:
            lines.append(f"{row.budgets:>9}   more than 50 seeds")
    return lines


def _curve_lines(design: Design, known: Basis) -> list[str]:
    """How well one method's curve will be known: as planned, and from a range ten times as wide."""
    from dataclasses import replace
    from math import isfinite

    from scalinglaws.errors import AnalysisError
    from scalinglaws.power import expected_fit

    tokens = design.tokens
    further = replace(design, budgets=tuple({*tokens[:-1], tokens[-1] * 10}))
    lines = ["how well a method's curve will be known (95 %):"]
    for name, grid in (("as planned", design), ("with the largest budget x 10", further)):
        try:
            fit = expected_fit(grid, known.noise, known.curve)
        except AnalysisError as error:
            return [f"a method's curve will not be known: {error}"]
        if fit.identified:
            (floor, top), (low, high) = fit.intervals["E"], fit.intervals["beta"]
            told = f"floor E to +-{(top - floor) / 2:.2g} nats, beta {low:.3g} to {high:.3g}"
        else:
            loose = [name for name, ends in fit.intervals.items() if not all(map(isfinite, ends))]
            told = f"not identified: no end to the interval of {', '.join(loose)}"
        lines.append(f"  {name}: {told}")
    return lines
