"""Which differences a grid of budgets and seeds can detect, and which grid suffices, as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hpcscale.config.load import load_sweep
from hpcscale.config.sweep import Budgets
from hpcscale.errors import ConfigError, DataError
from hpcscale.opened import run_directory
from hpcscale.preview.power import design_of, pilot_of
from hpcscale.units import format_rate
from scalinglaws.errors import AnalysisError
from scalinglaws.inputs import Inputs, read_inputs
from scalinglaws.pilot import Basis, basis
from scalinglaws.power import (
    NATS,
    Design,
    Effect,
    design_warnings,
    detectable,
    expected_fit,
    power,
    required,
)


@dataclass(frozen=True)
class Question:
    """What to plan. ``source`` is a sweep file, a run directory or a CSV of losses.

    Values of grid, noise and curve that are None are taken from ``source``. budgets: ``1M,4M`` or
    ``1M:300M:6``. columns: from our names to those of a CSV. effect, noise, reducible: nats.
    """

    source: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    budgets: str | None = None
    seeds: int | None = None
    methods: int | None = None
    effect: float | None = None
    multiplier: float | None = None
    noise: float | None = None
    correlation: float | None = None
    reducible: float | None = None
    exponent: float | None = None
    confidence: float = 0.95
    power: float = 0.8


def plan_power(asked: Question) -> str:
    """The plan as text for a terminal.

    Raises ConfigError without a grid, and DataError where the losses or a value cannot be used.
    """
    try:
        design, pilot = _grid(asked)
        design = replace(design, confidence=asked.confidence, power=asked.power)
        known = basis(
            design, pilot, asked.noise, asked.correlation, asked.reducible, asked.exponent
        )
        stated = asked.effect is not None or asked.multiplier is not None
        return _text(design, known, Effect(asked.effect if stated else NATS, asked.multiplier))
    except AnalysisError as error:
        raise DataError(str(error)) from None


def _grid(asked: Question) -> tuple[Design, Inputs | None]:
    """The grid and the earlier losses that the source and the options give."""
    grid, pilot = _read(asked.source, asked.columns)
    budgets: tuple[float, ...]
    if asked.budgets is not None:
        budgets = _budgets(asked.budgets)
    elif grid is not None:
        budgets = grid.budgets
    else:
        raise ConfigError("there is no grid; name a sweep file, a run or a CSV, or give budgets")
    seeds, methods = (grid.seeds, grid.methods) if grid else (3, 2)
    return Design(budgets, asked.seeds or seeds, asked.methods or methods), pilot


def _read(source: Path | None, columns: Mapping[str, str]) -> tuple[Design | None, Inputs | None]:
    if source is None:
        return None, None
    if source.suffix in (".yaml", ".yml"):
        config = load_sweep(source)
        return design_of(config), pilot_of(run_directory(config))
    inside = source / "analysis"
    pilot = read_inputs(inside if inside.is_dir() else source, columns)
    frame = pilot.losses.frame
    seeds = int(frame.groupby(["method", "budget"]).size().median())
    # A pilot of one method is planned as a comparison of two.
    methods = max(2, len(pilot.losses.methods))
    return Design(tuple(frame["budget"].unique()), seeds, methods), pilot


def _budgets(text: str) -> tuple[int, ...]:
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
    lines = _head(design, known)
    if design.methods > 1:
        lines += ["", *_detection_lines(design, known, effect)]
    lines += ["", *_curve_lines(design, known)]
    lines += [
        f"warning: {text}" for text in design_warnings(design, known.noise, known.curve, [effect])
    ]
    return "\n".join(lines)


def _head(design: Design, known: Basis) -> list[str]:
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


def _detection_lines(design: Design, known: Basis, effect: Effect) -> list[str]:
    """The smallest differences that the grid detects, and the chance to detect ``effect``."""
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
    """How well one method's curve will be known: as planned, and with a largest budget of 10x."""
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
            text = f"floor E to +-{(top - floor) / 2:.2g} nats, beta {low:.3g} to {high:.3g}"
        else:
            loose = [name for name, ends in fit.intervals.items() if not all(map(isfinite, ends))]
            text = f"not identified: the data do not bound {', '.join(loose)}"
        lines.append(f"  {name}: {text}")
    return lines
