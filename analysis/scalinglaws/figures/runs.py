"""Figures of the runs: training trajectories, overlap of selections, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scalinglaws.errors import AnalysisError
from scalinglaws.figures.style import (
    COLUMN,
    NATS,
    PAGE,
    key,
    legend,
    panels,
    short,
    styled,
    styles_of,
    tokens_text,
)
from scalinglaws.study import Study

#: Steps of a trajectory that a running mean covers.
_SMOOTH = 1 / 25
_GREYS = ("0.25", "0.75", "0.5", "0.9", "0.6", "1.0", "0.4", "0.85")
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "++")


@styled
def trajectories(study: Study, frame: pd.DataFrame) -> Figure:
    """Training loss against tokens seen, a panel a budget; marks are eval losses.

    frame: method, tokens, seed, tokens_seen, train_loss, eval_loss. Lines are running means of
    the mean over seeds.
    """
    if frame.empty:
        raise AnalysisError("there are no trajectories")
    budgets, styles = np.unique(frame["tokens"]), styles_of(study.methods)
    columns = min(len(budgets), 4)
    rows = -(-len(budgets) // columns)
    figure, grid = panels(
        rows, columns, width=PAGE if columns > 1 else COLUMN, height=1.6, sharey=True
    )
    for axes, budget in zip(grid.flat, budgets, strict=False):
        for method, style in styles.items():
            part = frame[(frame["tokens"] == budget) & (frame["method"] == method)]
            mean = part.groupby("tokens_seen")[["train_loss", "eval_loss"]].mean()
            train = mean["train_loss"].dropna()
            window = max(int(len(train) * _SMOOTH), 1)
            smooth = train.rolling(window, center=True, min_periods=1).mean()
            axes.plot(smooth.index, smooth, color=style.colour, lw=0.8, alpha=0.9)
            held = mean["eval_loss"].dropna()
            axes.plot(held.index, held, style.marker, color=style.colour, mfc="white", zorder=3)
        axes.set_title(f"{tokens_text(budget)} tokens")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    for nth, axes in enumerate(grid.flat):
        axes.set_visible(nth < len(budgets))
        axes.set_xlabel("tokens seen" if nth + columns >= len(budgets) else "")
    for axes in grid[:, 0]:
        axes.set_ylabel(f"loss ({NATS})")
    legend(
        figure,
        {m: s for m, s in styles.items() if m in set(frame["method"])},
        key("training"),
        key("eval", ls="none", marker="o", mfc="white"),
    )
    return figure


@styled
def overlap(study: Study, frame: pd.DataFrame) -> Figure:
    """Share of tokens that two methods' selections have in common, at the largest budget.

    frame: tokens, method_a, method_b, token_jaccard. Means over seeds.
    """
    if frame.empty:
        raise AnalysisError("there is no overlap to show")
    part = frame[frame["tokens"] == frame["tokens"].max()]
    shown = set(part["method_a"]) | set(part["method_b"])
    names = [method for method in study.methods if method in shown]
    shares = np.eye(len(names))
    shares[shares == 0] = np.nan
    for (a, b), mean in part.groupby(["method_a", "method_b"])["token_jaccard"].mean().items():
        i, j = names.index(a), names.index(b)
        shares[i, j] = shares[j, i] = mean
    labels = [f"{short(name)} ({nth})" for nth, name in enumerate(names, 1)]
    needed = 0.27 * len(names) + 0.055 * max(map(len, labels)) + 0.7
    figure, grid = panels(
        width=COLUMN if needed <= COLUMN else PAGE, height=0.8 + 0.28 * len(names)
    )
    axes = grid[0, 0]
    image = axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.argwhere(np.isfinite(shares)):
        axes.text(
            j,
            i,
            f"{shares[i, j]:.2f}".removeprefix("0"),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if shares[i, j] > 0.55 else "black",
        )
    axes.grid(visible=False)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xticks(range(len(names)), [f"({nth})" for nth in range(1, len(names) + 1)])
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="Jaccard (1)", shrink=0.9, aspect=15)
    return figure


def hours(methods: list[str], costs: pd.DataFrame | None, results: pd.DataFrame) -> pd.DataFrame:
    """Device-hours [method, stage]: training all cells, and each stage of selecting."""
    table = pd.DataFrame(index=methods)
    if "device_hours" in results and "method" in results:
        table["train"] = _trained(results)
    if costs is not None:
        for stage, part in costs.groupby("stage", sort=False):
            table[str(stage)] = part.groupby("method")["device_hours"].sum()
    table = table.fillna(0.0)
    return table.loc[:, table.sum() > 0]


def _trained(results: pd.DataFrame) -> pd.Series:
    """Device-hours of training by method, a trunk that several budgets share counted once.

    A cell's ``device_hours`` count as if it ran alone; without its own hours they are the trunk's
    up to its branch. The furthest branch of a seed includes the whole trunk.
    """
    whole = results["device_hours"]
    own = results.get("own_device_hours", whole).fillna(whole)
    runs = [results[name] for name in ("method", "seed") if name in results]
    trunks = (whole - own).groupby(runs).max()
    return own.groupby(results["method"]).sum() + trunks.groupby(level="method").sum()


@styled
def device_hours(study: Study, costs: pd.DataFrame | None, results: pd.DataFrame) -> Figure:
    """What each method cost, by stage."""
    table = hours(study.methods, costs, results)
    if table.empty or not len(table.columns):
        raise AnalysisError("no device-hours are known")
    scale, unit = (60.0, "device-minutes") if table.sum(axis=1).max() < 1 else (1.0, "device-hours")
    figure, grid = panels(height=0.6 + 0.24 * len(table))
    axes, left = grid[0, 0], np.zeros(len(table))
    handles = []
    for nth, stage in enumerate(table):
        look: dict[str, Any] = {
            "facecolor": _GREYS[nth % len(_GREYS)],
            "hatch": _HATCHES[nth % len(_HATCHES)],
            "edgecolor": "black",
            "linewidth": 0.5,
        }
        values = scale * table[stage].to_numpy()
        axes.barh(range(len(table)), values, left=left, height=0.62, **look)
        handles.append(Patch(label=str(stage), **look))
        left += values
    axes.set_yticks(range(len(table)), [short(name) for name in table.index])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(unit)
    legend(figure, {}, *handles)
    return figure
