"""The figure of losses against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from scalinglaws.bootstrap import Draws, band
from scalinglaws.study import Study

#: Okabe and Ito's colours, which colour-blind readers tell apart; markers tell them in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
          "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5, "legend.frameon": False,
          "savefig.dpi": 200, "figure.constrained_layout.use": True,
          "pdf.fonttype": 42}  # fmt: skip
#: One column of a two-column paper, in inches.
_SIZE = (3.5, 2.9)


def style_of(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, the same in every figure."""
    return {
        method: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    }


def loss_against_tokens(study: Study, out: Path) -> None:
    """Write ``out``.png and .pdf: seeds as points, curves with 95 % bands, the base loss."""
    frame, base_loss, methods = study.losses.frame, study.base_loss, study.methods
    styles = style_of(methods)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=_SIZE)
        for method in methods:
            colour, marker = styles[method]
            part = frame[frame["method"] == method]
            axes.plot(part["tokens"], part["loss"], marker, color=colour, ms=4, mew=0.6,
                      mfc="none", ls="none", label=method, zorder=3)  # fmt: skip
            if method in study.draws:
                _curve(axes, study.draws[method], frame["tokens"], colour)
        if base_loss is not None:
            axes.axhline(base_loss, color="0.4", lw=0.8, ls=":")
            axes.annotate(f"base model {base_loss:.3f}", (1, base_loss), xytext=(-2, 2),
                          xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha="right", va="bottom", color="0.3", fontsize=7)  # fmt: skip
        _dress(axes, frame["tokens"])
        for suffix in (".png", ".pdf"):
            figure.savefig(out.with_suffix(suffix))
        plt.close(figure)


def _curve(axes: Axes, draws: Draws, tokens: pd.Series, colour: str) -> None:
    low, high = np.log(tokens.min()), np.log(tokens.max())
    margin = 0.05 * (high - low)
    grid = np.exp(np.linspace(low - margin, high + margin, 200))
    axes.plot(grid, draws.fit.predict(grid), color=colour, lw=1.2, zorder=2)
    below, above = band(draws, grid)
    if draws.fit.converged and np.isfinite(below).all():
        axes.fill_between(grid, below, above, color=colour, alpha=0.15, lw=0, zorder=1)


def _dress(axes: Axes, tokens: pd.Series) -> None:
    axes.set_xscale("log")
    budgets = np.unique(tokens)
    if len(budgets) <= 8:
        axes.set_xticks(budgets)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    axes.set_xlabel("training tokens")
    axes.set_ylabel("eval loss (nats/token)")
    axes.margins(y=0.12)
    axes.legend(loc="lower left")


def tokens_text(value: float) -> str:
    """``64k``, ``3.13M``."""
    for suffix, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"
