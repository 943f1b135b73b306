"""How every figure looks: one style sheet, one colour and marker a method, sizes of a paper."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

#: Okabe and Ito's colours, which colour-blind readers tell apart; markers tell them in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Beyond the data.
DASHED = (0, (3, 1.5))
#: One column and two columns of a paper, in inches.
COLUMN, PAGE = 3.35, 6.9
NATS = "nats/token"
_STYLE = {
    "font.size": 7,
    "axes.labelsize": 8,
    "axes.titlesize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "lines.markeredgewidth": 0.7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "savefig.dpi": 250,
}
#: Metadata of a figure's files that would differ from day to day.
_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None},
    "svg": {"Date": None},
}
#: Letters of a name that are shown; inches of a letter of a legend; inches between two ticks.
_LETTERS, _LETTER, _APART = 28, 0.055, 0.36
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Style:
    """How one method is drawn."""

    colour: str
    marker: str


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """By the order of the study's methods, so that a method looks the same in every figure.

    Where colours repeat, the markers differ.
    """
    count = len(COLOURS)
    return {
        method: Style(COLOURS[i % count], MARKERS[(i + i // count) % len(MARKERS)])
        for i, method in enumerate(methods)
    }


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw in our style, whatever the user's matplotlib settings are."""

    @functools.wraps(draw)
    def inner(*args: _P.args, **options: _P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            figure = draw(*args, **options)
            figure.draw_without_rendering()  # ticks take their size from the current style
            return figure

    return inner


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = COLUMN,
    height: float = 2.1,
    **options: Any,
) -> tuple[Figure, npt.NDArray[np.object_]]:
    """A figure ``width`` inches wide with axes [rows, columns], each row ``height`` inches high."""
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend(figure: Figure, styles: dict[str, Style], *more: Artist) -> None:
    """Methods, and ``more`` handles, below the axes; the figure grows by their lines."""
    handles: list[Artist] = [
        Line2D([], [], color=style.colour, marker=style.marker, mfc="none", label=short(name))
        for name, style in styles.items()
    ] + list(more)
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    width, height = figure.get_size_inches()
    columns = int(np.clip(width // (longest * _LETTER + 0.45), 1, len(handles)))
    lines = -(-len(handles) // columns)
    figure.set_size_inches(width, height + 0.08 + 0.14 * lines)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def key(label: str, **options: Any) -> Line2D:
    """A grey handle for ``legend`` that says what a line or a marker is."""
    return Line2D([], [], label=label, **{"color": "0.35", **options})


def short(name: str) -> str:
    """A name that fits a legend."""
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


def token_axis(
    axes: Axes, tokens: Sequence[float] | npt.NDArray[np.float64], width: float, label: str = ""
) -> None:
    """A logarithmic axis of tokens; ticks at the budgets, as many as ``width`` inches hold."""
    axes.set_xscale("log")
    low, high = np.log(axes.get_xlim())
    gap = _APART / width * (high - low)
    ticks: list[float] = []
    for budget in np.unique(tokens):
        if not ticks or np.log(budget / ticks[-1]) >= gap:
            ticks.append(float(budget))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    axes.set_xlabel(label)


def tokens_text(value: float) -> str:
    """``64k``, ``3.13M``."""
    for suffix, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def number_axis(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, or at tens where it is long."""
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    decades = np.log10(high / low)
    if decades < 0.5:
        spread = mpl.ticker.MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [tick for tick in spread if low <= tick <= high]
    else:
        steps = (1, 2, 5) if decades < 2.2 else (1,)
        tens = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [
            step * 10.0**ten for ten in tens for step in steps if low <= step * 10.0**ten <= high
        ]
        ticks = ticks[:: -(-len(ticks) // 7)] or [float(np.sqrt(low * high))]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def note(axes: Axes, text: str, y: float, **options: Any) -> None:
    """Small grey text at the right end of a line at ``y``."""
    axes.annotate(
        text,
        (1, y),
        xytext=(-1, 1.5),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="0.35",
        fontsize=6.5,
        **options,
    )


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write ``name``.png, .pdf and .svg into ``directory``; the same bytes for the same figure."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    layout = figure.get_layout_engine()
    for suffix, undated in reversed(_UNDATED.items()):
        path = directory / f"{name}.{suffix}"
        with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
            figure.savefig(path, metadata=undated)
        # Laying out takes most of the time of a save, and the first did it.
        figure.set_layout_engine("none")
        written.append(path)
    figure.set_layout_engine(layout)
    return written[::-1]


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG text with letters as paths; ids are unique to ``name``."""
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_UNDATED["svg"])
    return buffer.getvalue()
