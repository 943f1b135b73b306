"""Losses and fitted curves against tokens."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalinglaws.bootstrap import Draws, band, quantiles
from scalinglaws.errors import AnalysisError
from scalinglaws.figures.style import (
    COLUMN,
    DASHED,
    NATS,
    Style,
    key,
    legend,
    note,
    number_axis,
    panels,
    styled,
    styles_of,
    token_axis,
)
from scalinglaws.laws import Floats
from scalinglaws.study import Study

#: Inches of axes in a figure of one column.
_WIDTH = COLUMN - 0.55
_BELOW, _POINTS = 0.94, 160


@styled
def loss_against_tokens(study: Study, factor: float = 1.0) -> Figure:
    """Seeds as points, curves with 95 % bands, dashed to ``factor`` times the largest budget."""
    frame, styles = study.losses.frame, styles_of(study.methods)
    figure, grid = panels(height=2.3)
    axes: Axes = grid[0, 0]
    for method, style in styles.items():
        part = study.part(method)
        axes.plot(
            part["tokens"], part["loss"], style.marker, color=style.colour, mfc="none", zorder=3
        )
        if method in study.draws:
            _curve(axes, study.draws[method], style, factor)
    if study.base_loss is not None:
        axes.axhline(study.base_loss, color="0.35", lw=0.8, ls=":")
        note(axes, f"base model {study.base_loss:.3f}", study.base_loss)
    axes.margins(y=0.1)
    budgets = list(frame["budget"].unique())
    ahead = [max(budgets) * factor] if factor > 1 else []
    token_axis(axes, budgets + ahead, _WIDTH, "training tokens")
    axes.set_ylabel(f"eval loss ({NATS})")
    legend(figure, styles, *([key("extrapolated", ls=DASHED)] if factor > 1 else []))
    return figure


def _curve(axes: Axes, draws: Draws, style: Style, factor: float) -> None:
    measured, beyond = _spans(draws, factor)
    for at, line in ((measured, "-"), (beyond, DASHED)):
        if len(at):
            axes.plot(at, draws.fit.predict(at), color=style.colour, ls=line, zorder=2)
    whole = np.concatenate([measured, beyond])
    _shade(axes, whole, *band(draws, whole), draws, style, share=0.16)


def _spans(draws: Draws, factor: float) -> tuple[Floats, Floats]:
    """Tokens within the data and beyond them."""
    low, high = (float(end(draws.fit.problem.x.tokens)) for end in (np.min, np.max))
    beyond = np.geomspace(high, high * factor, _POINTS) if factor > 1 else np.empty(0)
    return np.geomspace(low * _BELOW, high / (_BELOW if factor <= 1 else 1), _POINTS), beyond


def _shade(
    axes: Axes, at: Floats, low: Floats, high: Floats, draws: Draws, style: Style, share: float
) -> None:
    """The band, where the fit has one."""
    if not (draws.fit.converged and np.isfinite(low).all() and np.isfinite(high).all()):
        return
    axes.fill_between(at, low, high, color=style.colour, alpha=share, lw=0, zorder=1)


@styled
def reducible_loss(study: Study) -> Figure:
    """Loss less the fitted floor E, on logarithmic axes: a power law is straight.

    Raises AnalysisError where no fit that converged has a floor.
    """
    fits = {m: fit for m, fit in study.chosen.items() if fit.converged and "E" in fit.estimates}
    if not fits:
        raise AnalysisError("no fit with a floor E converged")
    styles = styles_of(study.methods)
    figure, grid = panels(height=2.2)
    axes: Axes = grid[0, 0]
    shown = []
    for method, fit in fits.items():
        style, draws, part = styles[method], study.draws[method], study.part(method)
        floor = fit.estimates["E"]
        above = part[part["loss"] > floor]
        axes.plot(
            above["tokens"],
            above["loss"] - floor,
            style.marker,
            color=style.colour,
            mfc="none",
            zorder=3,
        )
        at, _ = _spans(draws, 1)
        curve = fit.predict(at) - floor
        axes.plot(at, curve, color=style.colour, zorder=2)
        low, high = quantiles(draws.predict(at) - draws.values("E")[:, None])
        if fit.degrees > 0:
            least = curve.min() / 10
            low, high = np.maximum(low, least), np.maximum(high, least)
            _shade(axes, at, low, high, draws, style, share=0.13)
        shown += [curve.min(), curve.max(), *(above["loss"] - floor)]
    axes.set_yscale("log")
    axes.set_ylim(min(shown) / 1.6, max(shown) * 1.6)
    token_axis(axes, study.losses.frame["budget"].to_numpy(), _WIDTH, "training tokens")
    number_axis(axes)
    axes.set_ylabel(f"loss − E ({NATS})")
    legend(figure, {method: styles[method] for method in fits})
    return figure
