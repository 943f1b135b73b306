"""Figures of the comparison: multipliers, differences, crossovers, tokens for a loss, domains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalinglaws.errors import AnalysisError
from scalinglaws.figures.style import (
    COLUMN,
    DASHED,
    NATS,
    PAGE,
    Style,
    key,
    legend,
    number_axis,
    panels,
    short,
    styled,
    styles_of,
    token_axis,
    tokens_text,
)
from scalinglaws.study import Study

_WIDTH = COLUMN - 0.6
#: Multipliers are shown within this factor of 1.
_MOST = 16.0
_CHARGED = {
    "none": "tokens alone",
    "flops": "selection charged in FLOPs",
    "device_hours": "selection charged in device-hours",
}


def _need(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    if frame.empty:
        raise AnalysisError(f"there are no {what}")
    return frame


def _drawable(values: pd.Series) -> pd.Series:
    """Values that a logarithmic axis can show; an empty column may be of any type."""
    numbers = values.astype(float)
    return np.isfinite(numbers) & (numbers > 0)


def _aside(nth: int, count: int, step: float) -> float:
    """A factor on tokens that puts intervals of several methods side by side."""
    return float(np.exp(step * (nth - (count - 1) / 2)))


def _bars(axes: Axes, x: pd.Series, part: pd.DataFrame, value: str, style: Style) -> None:
    """Points with intervals; ends that are not known are left out."""
    ends = np.array([part[value] - part["ci_low"], part["ci_high"] - part[value]], float)
    ends = np.nan_to_num(np.maximum(ends, 0), nan=0.0, posinf=1e30)
    axes.errorbar(
        x,
        part[value],
        yerr=ends,
        fmt=style.marker,
        color=style.colour,
        mfc="white",
        elinewidth=0.8,
        capsize=1.5,
        capthick=0.8,
    )


@styled
def multipliers(study: Study, frame: pd.DataFrame) -> Figure:
    """Tokens that the reference needs for the same loss, over tokens used; one panel per charge."""
    frame = _need(frame[_drawable(frame["multiplier"])], "multipliers")
    kinds = [kind for kind in _CHARGED if (frame["charged"] == kind).any()]
    reference, styles = frame["reference"].iloc[0], styles_of(study.methods)
    wide = COLUMN if len(kinds) == 1 else PAGE
    figure, grid = panels(1, len(kinds), width=wide, height=2.1, sharey=True)
    for axes, kind in zip(grid[0], kinds, strict=True):
        part = frame[frame["charged"] == kind]
        for method, rows in part.groupby("method", sort=False):
            _multiplier(axes, rows.sort_values("tokens"), styles[str(method)])
        axes.axhline(1, color="0.35", lw=0.8)
        if len(kinds) > 1:
            axes.set_title(_CHARGED[kind])
    first = grid[0, 0]
    first.set_yscale("log")
    first.set_ylim(*_range(frame))
    for axes in grid[0]:
        token_axis(axes, frame["tokens"].to_numpy(), wide / len(kinds) - 0.5, "training tokens")
        number_axis(axes)
    first.set_ylabel("token multiplier (1)")
    shown = set(frame["method"])
    more = [key(f"1 = {short(reference)}", lw=0.8)]
    if frame["extrapolated"].any():
        more.append(key("extrapolated", ls=DASHED))
    legend(figure, {name: style for name, style in styles.items() if name in shown}, *more)
    return figure


def _range(frame: pd.DataFrame) -> tuple[float, float]:
    """All multipliers, and intervals up to twice as far from 1; never beyond ``_MOST``."""
    far = max(float(np.exp(np.abs(np.log(frame["multiplier"])).max())), 1.15)
    ends = pd.concat([frame["ci_low"], frame["ci_high"]])
    ends = ends[(ends > 0) & np.isfinite(ends)]
    low, high = (min(ends), max(ends)) if len(ends) else (1.0, 1.0)
    most = min(far**2, _MOST)
    value = frame["multiplier"]
    return (
        max(min(max(low, 1 / most), value.min(), 1), 1 / _MOST) / 1.05,
        min(max(min(high, most), value.max(), 1), _MOST) * 1.05,
    )


def _multiplier(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
    inside = rows[~rows["extrapolated"].astype(bool)]
    beyond = rows[rows["tokens"] >= (inside["tokens"].max() if len(inside) else 0)]
    axes.plot(
        inside["tokens"],
        inside["multiplier"],
        color=style.colour,
        marker=style.marker,
        mfc="white",
        zorder=3,
    )
    axes.plot(beyond["tokens"], beyond["multiplier"], color=style.colour, ls=DASHED, zorder=2)
    if rows[["ci_low", "ci_high"]].notna().all(axis=None):
        axes.fill_between(
            rows["tokens"],
            rows["ci_low"].clip(lower=1e-6),
            rows["ci_high"].clip(upper=1e6),
            color=style.colour,
            alpha=0.15,
            lw=0,
            zorder=1,
        )


@styled
def differences(study: Study, frame: pd.DataFrame) -> Figure:
    """Loss less the reference's at each budget, with 95 % intervals."""
    frame, styles = _need(frame, "differences"), styles_of(study.methods)
    figure, grid = panels(height=2.1)
    axes: Axes = grid[0, 0]
    groups = list(frame.groupby("method", sort=False))
    scaled = frame.assign(**{n: 1e3 * frame[n] for n in ("difference", "ci_low", "ci_high")})
    for nth, (method, _) in enumerate(groups):
        part = scaled[scaled["method"] == method]
        _bars(
            axes,
            part["budget"] * _aside(nth, len(groups), 0.35 / len(groups)),
            part,
            "difference",
            styles[str(method)],
        )
    axes.axhline(0, color="0.35", lw=0.8)
    axes.margins(x=0.08)
    token_axis(axes, frame["budget"].to_numpy(), _WIDTH, "training tokens")
    axes.set_ylabel("Δ loss (millinats/token)")
    shown = {str(method): styles[str(method)] for method, _ in groups}
    legend(figure, shown, key(f"0 = {short(frame['reference'].iloc[0])}", lw=0.8))
    return figure


@styled
def crossovers(study: Study, frame: pd.DataFrame) -> Figure:
    """The budgets at which pairs of curves cross, a line a pair; the measured range is shaded."""
    frame = _need(frame, "crossovers")
    tokens = study.losses.frame["tokens"]
    low, high = float(tokens.min()), float(tokens.max())
    figure, grid = panels(height=0.55 + 0.27 * len(frame))
    axes: Axes = grid[0, 0]
    axes.set_xscale("log")
    found = frame[["tokens", "ci_low", "ci_high"]].to_numpy(float)
    finite = found[np.isfinite(found) & (found > 0)]
    ends = (min([low, *finite]) / 1.15, max([high, *finite]) * 1.15)
    axes.set_xlim(max(ends[0], low / 16), min(ends[1], high * 16))
    axes.axvspan(low, high, color="0.92", lw=0, zorder=0)
    for place, row in enumerate(frame.itertuples()):
        if np.isnan(row.tokens):
            axes.text(
                np.sqrt(np.prod(axes.get_xlim())),
                place,
                "none in range",
                ha="center",
                va="center",
                color="0.35",
            )
            continue
        if row.ci_low <= row.ci_high:
            axes.plot(
                [max(row.ci_low, ends[0] / 2), min(row.ci_high, ends[1] * 2)],
                [place] * 2,
                color="0.35",
                lw=1,
                solid_capstyle="butt",
            )
        axes.plot(row.tokens, place, "o", color="black", mfc="white")
    names = [
        f"{short(a)}\nvs {short(b)}"
        for a, b in zip(frame["method_a"], frame["method_b"], strict=True)
    ]
    axes.set_yticks(range(len(frame)), names, fontsize=6)
    axes.set_ylim(len(frame) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    widest = max(max(map(len, name.split("\n"))) for name in names) * 0.047
    token_axis(axes, tokens.to_numpy(), max(COLUMN - widest - 0.2, 0.8), "training tokens")
    return figure


@styled
def iso_loss(study: Study, frame: pd.DataFrame) -> Figure:
    """Tokens that each method needs for a loss."""
    frame = _need(frame[_drawable(frame["tokens"])], "iso-loss tokens")
    styles = styles_of(study.methods)
    figure, grid = panels(height=2.1)
    axes: Axes = grid[0, 0]
    groups = list(frame.groupby("method", sort=False))
    span = float(np.ptp(frame["loss"])) or 0.01
    for nth, (method, part) in enumerate(groups):
        aside = 0.02 * span * (nth - (len(groups) - 1) / 2)
        _bars(axes, part["loss"] + aside, part, "tokens", styles[str(method)])
        ahead = part[part["extrapolated"].astype(bool)]
        axes.plot(
            ahead["loss"] + aside,
            ahead["tokens"],
            "x",
            color=styles[str(method)].colour,
            ms=7,
            mew=0.6,
        )
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yscale("log")
    axes.set_ylim(frame["tokens"].min() / 1.5, frame["tokens"].max() * 1.5)
    number_axis(axes)
    axes.yaxis.set_major_formatter(lambda value, _: tokens_text(value))
    axes.set_xlabel(f"eval loss ({NATS})")
    axes.set_ylabel("training tokens needed")
    more = [key("extrapolated", ls="none", marker="x")] if frame["extrapolated"].any() else []
    legend(figure, {str(m): styles[str(m)] for m, _ in groups}, *more)
    return figure


@styled
def domains(study: Study, frame: pd.DataFrame) -> Figure:
    """Loss against tokens, a panel a domain; the base model's loss is dotted."""
    frame, styles = _need(frame, "losses by domain"), styles_of(study.methods)
    names = list(frame["domain"].unique())
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, grid = panels(
        rows, columns, width=PAGE if columns > 2 else COLUMN, height=1.5, sharex=True
    )
    width = figure.get_size_inches()[0] / columns - 0.55
    for axes, name in zip(grid.flat, names, strict=False):
        part = frame[frame["domain"] == name]
        for method, each in part.groupby("method", sort=False):
            style = styles[str(method)]
            axes.plot(
                each["budget"], each["loss"], color=style.colour, marker=style.marker, mfc="white"
            )
        base = part["base_loss"].dropna()
        if len(base):
            axes.axhline(base.iloc[0], color="0.35", lw=0.8, ls=":")
        axes.set_title(short(str(name)))
        axes.margins(x=0.08, y=0.1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    for nth, axes in enumerate(grid.flat):
        axes.set_visible(nth < len(names))
        last = nth + columns >= len(names)
        token_axis(axes, frame["budget"].to_numpy(), width, "tokens" if last else "")
        axes.tick_params(labelbottom=last)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"loss ({NATS})")
    base_key = [key("base model", ls=":")] if frame["base_loss"].notna().any() else []
    legend(figure, {m: s for m, s in styles.items() if m in set(frame["method"])}, *base_key)
    return figure


def target_of(frame: pd.DataFrame) -> str:
    """The domain whose loss fell most, over methods and budgets."""
    return str(frame.groupby("domain", sort=False)["change"].mean().idxmin())


@styled
def forgetting(study: Study, frame: pd.DataFrame, target: str | None = None) -> Figure:
    """Change of the target domain's loss against that of the others' plain mean.

    target: default that whose loss fell most. Raises AnalysisError without two domains and the
    base model's losses.
    """
    frame = frame[frame["change"].notna()]
    if frame["domain"].nunique() < 2:
        raise AnalysisError("the figure needs two domains with the base model's losses")
    target, styles = target or target_of(frame), styles_of(study.methods)
    keys = ["method", "budget"]
    own = frame[frame["domain"] == target].set_index(keys)["change"]
    others = frame[frame["domain"] != target].groupby(keys)["change"].mean()
    both = pd.DataFrame({"own": own, "others": others}).dropna().reset_index()
    figure, grid = panels(height=2.2)
    axes: Axes = grid[0, 0]
    sizes = {budget: 2.5 + 0.8 * nth for nth, budget in enumerate(np.unique(both["budget"]))}
    for method, style in styles.items():
        part = both[both["method"] == method].sort_values("budget")
        axes.plot(part["own"], part["others"], color=style.colour, lw=0.7)
        for row in part.itertuples():
            axes.plot(
                row.own,
                row.others,
                style.marker,
                color=style.colour,
                mfc="white",
                ms=min(sizes[row.budget], 8),
            )
    axes.axhline(0, color="0.35", lw=0.8)
    axes.axvline(0, color="0.35", lw=0.8)
    axes.margins(0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"change of {short(target)} ({NATS})")
    axes.set_ylabel(f"others' change ({NATS})")
    legend(figure, {m: s for m, s in styles.items() if m in set(both["method"])})
    return figure
