"""One figure for each experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcscale.influence.validate.counterfactual import RANDOM, CounterfactualResult
from hpcscale.influence.validate.lds import LdsResult
from hpcscale.influence.validate.noise import NoiseResult
from hpcscale.influence.validate.retrieval import RetrievalResult
from hpcscale.influence.validate.statistics import Interval

_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}


def draw_noise(result: NoiseResult, out: Path) -> None:
    _dots(
        result.kinds,
        list(result.scores),
        lambda kind, variant: result.auc(variant, kind),
        "AUC of ranking noise below clean documents",
        out,
    )


def draw_retrieval(result: RetrievalResult, out: Path) -> None:
    domains = list(next(iter(result.scores.values())))
    _dots(
        domains,
        list(result.scores),
        lambda domain, variant: result.auc(variant, domain),
        "AUC of ranking the queries' domain on top",
        out,
    )


def _dots(
    rows: Sequence[str],
    variants: Sequence[str],
    value: Callable[[str, str], Interval],
    label: str,
    out: Path,
) -> None:
    """One group of points per row, one point with its interval per variant, and a line at 0.5."""
    from scalinglaws.figures.style import COLOURS, MARKERS

    def draw(axes: Any) -> None:
        for nth, variant in enumerate(variants):
            found = [value(row, variant) for row in rows]
            places = np.arange(len(rows)) + 0.7 * ((nth + 0.5) / len(variants) - 0.5)
            # A colour that repeats has another marker.
            colour = COLOURS[nth % len(COLOURS)]
            marker = MARKERS[(nth + nth // len(COLOURS)) % len(MARKERS)]
            _points(axes, found, places, colour, marker, variant)
        axes.axvline(0.5, color="0.4", lw=0.8, ls=":")
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(label)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    _save(draw, (6, 0.9 + 0.2 * len(rows) + 0.09 * len(rows) * len(variants)), out)


def _points(
    axes: Any, found: Sequence[Interval], places: Any, colour: str, marker: str, label: str
) -> None:
    values = np.array([one.value for one in found])
    ends = np.array([[one.value - one.low, one.high - one.value] for one in found])
    axes.errorbar(
        values,
        places,
        xerr=np.maximum(ends, 0).T,
        fmt=marker,
        color=colour,
        ms=4,
        lw=1,
        label=label,
    )


def draw_lds(result: LdsResult, out: Path) -> None:
    """Bars from 0, with the interval over queries and subsets."""
    found = {name: one.over_both for name, one in result.correlations().items()}

    def draw(axes: Any) -> None:
        places = np.arange(len(found))
        axes.barh(places, [one.value for one in found.values()], color="#56B4E9", height=0.6)
        _points(axes, list(found.values()), places, "black", "none", "")
        axes.axvline(0, color="0.4", lw=0.8)
        axes.set_yticks(places, list(found))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("linear datamodeling score (mean Spearman, 95 % interval)")

    _save(draw, (5, 0.9 + 0.25 * len(found)), out)


def draw_counterfactual(result: CounterfactualResult, out: Path) -> None:
    """One panel per variant; one line per seed, from the top arm over random to the bottom arm."""
    variants = list(dict.fromkeys(a.rpartition(" ")[0] for a in result.losses if a != RANDOM))

    def draw(panels: Any) -> None:
        for axes, variant in zip(np.atleast_1d(panels), variants, strict=True):
            arms = [f"{variant} top", RANDOM, f"{variant} bottom"]
            lines = np.stack([result.losses[arm] - result.losses[RANDOM] for arm in arms])
            axes.plot(range(3), lines, "o-", color="#0072B2", lw=0.8, ms=3, alpha=0.5)
            axes.plot(range(3), lines.mean(1), color="black", lw=1.8)
            axes.set_xticks(range(3), ["top", "random", "bottom"])
            axes.set_title(variant, fontsize=8)
            axes.margins(x=0.15)
        np.atleast_1d(panels)[0].set_ylabel("query loss minus random's (nats/token)")

    _save(draw, (1.2 + 1.6 * len(variants), 2.6), out, len(variants))


def _save(
    draw: Callable[[Any], None], size: tuple[float, float], out: Path, columns: int = 1
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, columns, figsize=size, sharey=True)
        draw(axes)
        figure.savefig(out)
        plt.close(figure)
