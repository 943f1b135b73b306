"""Figures that test the fits: residuals, forecasts of known losses, profiles, draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy import stats
from scipy.interpolate import PchipInterpolator

from scalinglaws.choice import forecast
from scalinglaws.errors import AnalysisError
from scalinglaws.figures.style import (
    COLUMN,
    PAGE,
    Style,
    key,
    legend,
    number_axis,
    panels,
    styled,
    styles_of,
    token_axis,
    tokens_text,
)
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats
from scalinglaws.minimise import minimise
from scalinglaws.profile import Profile, profile
from scalinglaws.study import Study

#: Times the threshold up to which a profile is drawn.
_BEYOND = 1.6
_CONFIDENCE = 0.95


def _fits(study: Study) -> dict[str, Fit]:
    """Of the study's law, those with degrees of freedom. Raises AnalysisError without any."""
    fits = {method: fit for method, fit in study.chosen.items() if fit.degrees > 0}
    if not fits:
        raise AnalysisError("no fit has degrees of freedom left")
    return fits


@styled
def residuals(study: Study) -> Figure:
    """Residuals against tokens, and their quantiles against the normal's."""
    fits, styles = _fits(study), styles_of(study.methods)
    figure, grid = panels(1, 2, width=PAGE, height=2.0)
    left, right = grid[0]
    for nth, (method, fit) in enumerate(fits.items()):
        style = styles[method]
        left_over = 1e3 * (fit.problem.losses - fit.predict(fit.problem.x))
        # Side by side: seeds of several methods at one budget would hide each other.
        aside = np.exp(0.05 * (nth - (len(fits) - 1) / 2))
        scale = left_over / (1e3 * fit.residual_sd) if fit.residual_sd > 0 else left_over
        (expected, ordered), _ = stats.probplot(scale)
        for axes, x, y in (
            (left, fit.problem.x.tokens * aside, left_over),
            (right, expected, ordered),
        ):
            axes.plot(x, y, style.marker, color=style.colour, mfc="none")
    left.axhline(0, color="0.35", lw=0.8)
    left.margins(x=0.08)
    token_axis(left, study.losses.frame["budget"].to_numpy(), PAGE / 2 - 0.5, "training tokens")
    left.set_ylabel("residual (millinats/token)")
    ends = np.array(
        [min(*right.get_xlim(), *right.get_ylim()), max(*right.get_xlim(), *right.get_ylim())]
    )
    right.plot(ends, ends, color="0.35", lw=0.8, zorder=1)
    right.set_xlabel("normal quantile (1)")
    right.set_ylabel("residual / its sd (1)")
    legend(figure, {method: styles[method] for method in fits})
    return figure


def holdout_errors(study: Study) -> pd.DataFrame:
    """law, method, tokens, factor, error: of each larger budget's mean loss, forecast from
    budgets up to tokens / factor, relative to the loss.
    """
    rows = []
    for method, by_law in study.fits.items():
        frame = study.part(method)
        budgets, level = np.unique(frame["budget"]), frame["budget"].to_numpy()
        for name, fit in by_law.items():
            for last in budgets[fit.law.min_budgets - 1 : -1]:
                without = forecast(fit, level <= last)
                if without is None or not without.converged:
                    continue
                for budget in budgets[budgets > last]:
                    here = level == budget
                    predicted = without.predict(fit.problem.x[here]).mean()
                    actual = fit.problem.losses[here].mean()
                    rows.append([name, method, budget, budget / last, predicted / actual - 1])
    return pd.DataFrame(rows, columns=["law", "method", "tokens", "factor", "error"])


@styled
def holdout_error(study: Study) -> Figure:
    """Forecast errors against how far beyond the fitted budgets they are, a panel a law.

    Raises AnalysisError where there are too few budgets to hold any out.
    """
    errors, styles = holdout_errors(study), styles_of(study.methods)
    if errors.empty:
        raise AnalysisError("there are too few budgets to hold one out and fit the others")
    laws = list(errors["law"].unique())
    wide = PAGE if len(laws) > 1 else COLUMN
    figure, grid = panels(1, len(laws), width=wide, height=2.0, sharey=True, sharex=True)
    for axes, law in zip(grid[0], laws, strict=True):
        axes.axhline(0, color="0.35", lw=0.8)
        for nth, method in enumerate(study.methods):
            part = errors[(errors["law"] == law) & (errors["method"] == method)]
            aside = 1 + 0.04 * (nth - (len(study.methods) - 1) / 2)
            axes.plot(
                part["factor"] * aside,
                100 * part["error"],
                styles[method].marker,
                color=styles[method].colour,
                mfc="none",
            )
        axes.set_title(law)
        axes.set_xlabel(
            "tokens / most fitted (1)"
            if len(laws) > 2
            else "tokens forecast / most tokens fitted (1)"
        )
    first = grid[0, 0]
    factors = errors["factor"]
    first.set_xlim(factors.min() / 1.25, factors.max() * 1.25)
    for axes in grid[0]:
        number_axis(axes, "x")
    if errors["error"].abs().max() > 0.05:
        _outlying(first)
    first.set_ylabel("forecast error (%)")
    shown = set(errors["method"])
    legend(figure, {name: style for name, style in styles.items() if name in shown})
    return figure


def _outlying(axes: Axes) -> None:
    """A linear axis up to 1 %, a logarithmic one beyond: one failed forecast hides no other."""
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_locator(FixedLocator([-100, -10, -1, 0, 1, 10, 100, 1000]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@styled
def profiles(study: Study) -> Figure:
    """Each parameter's profile likelihood: t against its value, and where 95 % intervals end."""
    fits, styles = _fits(study), styles_of(study.methods)
    names = list(dict.fromkeys(n for fit in fits.values() for n in fit.problem.parameters))
    limits = {float(stats.t.ppf(0.5 + _CONFIDENCE / 2, fit.degrees)) for fit in fits.values()}
    most = _BEYOND * max(limits)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, grid = panels(rows, columns, width=PAGE, height=1.9, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        for method, fit in fits.items():
            if name in fit.problem.parameters:
                _profile(axes, profile(fit, name), styles[method], most)
        for limit in limits:
            for side in (-limit, limit):
                axes.axhline(side, color="0.35", lw=0.7, ls=":")
        axes.set_ylim(-most, most)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        units = {shape.name: shape.unit for fit in fits.values() for shape in fit.problem.free}
        axes.set_xlabel(f"{name} ({units.get(name) or _unit(name)})")
        _value_axis(axes)
        if units.get(name) == "tokens":
            axes.xaxis.set_major_formatter(lambda value, _: tokens_text(value))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("profile t (1)")
    legend(
        figure,
        {method: styles[method] for method in fits},
        key(f"{_CONFIDENCE:.0%} threshold", ls=":"),
    )
    return figure


def _unit(name: str) -> str:
    """Floors and the base loss are losses; the other amplitudes' unit depends on the exponent."""
    return "nats/token" if name in ("E", "L0") else "nats/token × tokens^β"


def _profile(axes: Axes, found: Profile, style: Style, most: float) -> None:
    there = found.values > 0
    logs = np.log(found.values[there])
    if len(logs) < 2:
        return
    fine = np.linspace(logs[0], logs[-1], 20_000)
    t = PchipInterpolator(logs, found.t[there])(fine)
    near = np.abs(t) <= 1.1 * most
    axes.plot(np.exp(fine[near]), t[near], color=style.colour)
    middle = there & (found.t == 0)
    axes.plot(found.values[middle], found.t[middle], style.marker, color=style.colour, mfc="none")


def _value_axis(axes: Axes) -> None:
    """Logarithmic where values span more than a factor of 8."""
    low, high = axes.dataLim.x0, axes.dataLim.x1
    if 0 < 8 * low < high:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.1)
        tens = np.arange(np.ceil(np.log10(low / 1.1)), np.floor(np.log10(high * 1.1)) + 1)
        axes.xaxis.set_major_locator(FixedLocator(list(10.0 ** tens[:: -(-len(tens) // 4) or 1])))
        axes.xaxis.set_minor_locator(NullLocator())
        if len(tens) < 2:
            number_axis(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))


@styled
def parameter_pairs(study: Study, first: str = "E", second: str = "beta") -> Figure:
    """Resampled parameters against each other, with margins, and the ridge of the objective.

    The ridge is the best ``second`` for each ``first``. Raises AnalysisError where the law does
    not have both.
    """
    fits, styles = _fits(study), styles_of(study.methods)
    fits = {
        m: fit
        for m, fit in fits.items()
        if fit.converged and {first, second} <= set(fit.problem.parameters)
    }
    if not fits:
        raise AnalysisError(f"no fit that converged has both {first} and {second}")
    figure, grid = panels(
        2, 2, height=1.5, sharex="col", sharey="row", width_ratios=(4, 1), height_ratios=(1, 4)
    )
    grid[0, 1].set_visible(False)
    top, axes, side = grid[0, 0], grid[1, 0], grid[1, 1]
    drawn = {m: (study.draws[m].values(first), study.draws[m].values(second)) for m in fits}
    ends = [_ends([pair[i] for pair in drawn.values()]) for i in (0, 1)]
    for method, fit in fits.items():
        style, (x, y) = styles[method], drawn[method]
        axes.plot(x, y, ".", color=style.colour, ms=1.5, mew=0, alpha=0.3, rasterized=True)
        axes.plot(
            *_ridge(fit, first, second, np.linspace(*ends[0], 60)), color=style.colour, lw=0.9
        )
        axes.plot(
            fit.estimates[first],
            fit.estimates[second],
            style.marker,
            color=style.colour,
            mec="white",
            ms=5.5,
            zorder=4,
        )
        for margin, values, span, way in (
            (top, x, ends[0], "vertical"),
            (side, y, ends[1], "horizontal"),
        ):
            margin.hist(
                values,
                bins=np.linspace(*span, 41),
                histtype="step",
                color=style.colour,
                orientation=way,
                lw=0.9,
            )
    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])
    axes.set_xlabel(f"{first} ({_unit(first)})")
    axes.set_ylabel(f"{second} (1)")
    for margin in (top, side):
        margin.set_axis_off()
    legend(figure, {method: styles[method] for method in fits})
    return figure


def _ends(values: list[Floats]) -> tuple[float, float]:
    """The middle 98 % of every method's draws."""
    low = min(float(np.quantile(each, 0.01)) for each in values)
    high = max(float(np.quantile(each, 0.99)) for each in values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _ridge(fit: Fit, first: str, second: str, values: Floats) -> tuple[Floats, Floats]:
    """``second`` [m] of the best fits with ``first`` held at each of ``values`` [m]."""
    values = values[values > 0]
    held = replace(fit.problem, held=fit.problem.held | {first: values})
    index = [shape.name for shape in fit.problem.free].index(second)
    reached = minimise(held, np.tile(fit.logs, (len(values), 1)))
    return values, np.exp(reached.logs[:, index])
