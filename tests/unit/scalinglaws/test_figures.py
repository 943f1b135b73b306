"""Figures of simulated sweeps: what is drawn equals the data, and nothing hides anything."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from scalinglaws.bootstrap import band
from scalinglaws.compare import Comparison, compare
from scalinglaws.errors import AnalysisError
from scalinglaws.figures import NAMES, Drawing, checks, curves, draw_all, runs, save, svg
from scalinglaws.figures import compare as compared
from scalinglaws.figures.style import COLUMN, PAGE, styles_of
from scalinglaws.read import read_losses
from scalinglaws.study import Study, study

BASE = 4.0
EIGHT = tuple(f"selection-method-number-{n}" for n in range(8))
USUAL = ("random", "perplexity", "influence")


def losses(methods: Sequence[str], budgets: int, seeds: int, sd: float = 0.004) -> pd.DataFrame:
    """Rectified curves; each method's tokens are worth a quarter more than the one's before."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "method": method,
            "tokens": tokens,
            "seed": seed,
            "loss": 3 + 1 / (1 + np.sqrt(tokens * (1 + nth / 4) / 2e7)) + rng.normal(0, sd),
        }
        for nth, method in enumerate(methods)
        for tokens in 1e6 * 4.0 ** np.arange(budgets)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def domain_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """One domain that falls, one below zero, one that rises."""
    parts = [
        frame.assign(domain=name, loss=offset + slope * (frame["loss"] - BASE), base_loss=offset)
        for name, offset, slope in (("code", 3.0, 1.5), ("shifted", -0.2, 0.5), ("news", 3.5, -0.2))
    ]
    return pd.concat(parts, ignore_index=True)


def extras(frame: pd.DataFrame, methods: Sequence[str]) -> dict[str, pd.DataFrame]:
    steps = np.linspace(0.05, 1, 20)
    path = pd.concat(
        [
            frame.assign(
                tokens_seen=frame["tokens"] * s,
                train_loss=BASE - s * (BASE - frame["loss"]),
                eval_loss=frame["loss"] if s == 1 else np.nan,
            )
            for s in steps
        ]
    )
    shared = [
        {
            "tokens": frame["tokens"].max(),
            "seed": 0,
            "method_a": a,
            "method_b": b,
            "token_jaccard": 0.25,
        }
        for a, b in combinations(methods, 2)
    ]
    costs = pd.DataFrame(
        {"method": list(methods), "stage": "score", "flops": 1e15, "device_hours": 2.0}
    )
    return {
        "trajectories": path,
        "overlap": pd.DataFrame(shared),
        "costs": costs,
        "results": frame.assign(device_hours=0.5, train_flops=6e8 * frame["tokens"]),
    }


@functools.cache
def made(
    methods: tuple[str, ...], budgets: int, seeds: int, base: float | None, pairs: bool
) -> tuple[Study, Comparison | None, Drawing]:
    frame = losses(methods, budgets, seeds)
    fitted = study(read_losses(frame), ["rectified" if base else "power"], base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalinglaws.study.DRAWS", 200)  # how many does not matter here
        assert fitted.draws
    more = extras(frame, methods)
    against = None
    if len(methods) > 1 and pairs:
        against = compare(
            fitted, domains=domain_losses(frame), costs=more["costs"], results=more["results"]
        )
    return fitted, against, draw_all(fitted, against, more)


@pytest.fixture(scope="module")
def usual() -> tuple[Study, Comparison, Drawing]:
    fitted, against, drawing = made(USUAL, 5, 2, BASE, True)
    assert against is not None
    return fitted, against, drawing


def lines_of(axes: Axes, colour: str, marker: str | None = None) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [
        np.asarray(line.get_xydata())
        for line in axes.lines
        if same_color(line.get_color(), colour) and (marker is None or line.get_marker() == marker)
    ]


def boxes(figure: Figure) -> list[tuple[str, mpl.transforms.Bbox]]:
    """Of all words that are seen."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        texts += [axes.title, *axes.texts]
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, axis.get_offset_text()]
            texts += [
                tick.label1
                for tick in axis.get_major_ticks()
                if low * (1 - 1e-9) - 1e-9 <= tick.get_loc() <= high * (1 + 1e-9) + 1e-9
                and tick.label1.get_visible()
            ]
    return [
        (t.get_text(), t.get_window_extent(renderer))
        for t in texts
        if t.get_text() and t.get_visible()
    ]


def hidden(figure: Figure) -> list[str]:
    """Words that overlap others, or leave the figure."""
    found = boxes(figure)
    faults = [
        f"{a!r} over {b!r}"
        for (a, one), (b, other) in combinations(found, 2)
        if one.padded(-0.5).overlaps(other.padded(-0.5))
    ]
    whole = figure.bbox.padded(1)
    return faults + [
        f"{name!r} leaves the figure"
        for name, box in found
        if not (whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1))
    ]


@pytest.mark.parametrize(
    ("methods", "budgets", "seeds", "base", "pairs"),
    [
        pytest.param(USUAL, 5, 2, BASE, True, id="usual"),
        pytest.param(EIGHT, 4, 2, BASE, False, id="eight long names"),
        pytest.param(EIGHT, 4, 2, BASE, True, id="all of eight", marks=pytest.mark.slow),
        pytest.param(("random",), 4, 2, BASE, True, id="one method"),
        pytest.param(("random", "other"), 3, 1, None, True, id="unidentified, no base loss"),
    ],
)
def test_no_word_hides_another(
    methods: tuple[str, ...], budgets: int, seeds: int, base: float | None, pairs: bool
) -> None:
    _, _, drawing = made(methods, budgets, seeds, base, pairs)
    faults = {one.name: hidden(one.figure) for one in drawing.drawn}
    assert not {name: found for name, found in faults.items() if found}
    for one in drawing.drawn:
        assert one.figure.get_figwidth() in (COLUMN, PAGE)
        assert one.caption.endswith(".")
        assert "{" not in one.caption
        assert one.alt


def test_everything_is_drawn_and_axes_have_units(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    _, _, drawing = usual
    assert not drawing.skipped
    assert [one.name for one in drawing.drawn] == list(NAMES)
    for one in drawing.drawn:
        labels = [axes.get_xlabel() for axes in one.figure.axes]
        labels += [axes.get_ylabel() for axes in one.figure.axes]
        for label in filter(None, labels):
            assert "tokens" in label or "device" in label or label.endswith(")"), label


def test_points_are_the_data_and_the_band_is_that_of_the_draws(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    fitted = usual[0]
    axes = curves.loss_against_tokens(fitted, 4).axes[0]
    for method, style in styles_of(fitted.methods).items():
        (points,) = lines_of(axes, style.colour, style.marker)
        np.testing.assert_array_equal(points, fitted.part(method)[["tokens", "loss"]])
        curve, beyond = lines_of(axes, style.colour, "None")
        np.testing.assert_allclose(curve[:, 1], fitted.chosen[method].predict(curve[:, 0]))
        assert beyond[-1, 0] == pytest.approx(4 * fitted.part(method)["tokens"].max())
        (shade,) = [
            c for c in axes.collections if same_color(c.get_facecolor()[0][:3], style.colour)
        ]
        corners = shade.get_paths()[0].vertices
        low, high = band(fitted.draws[method], curve[:, 0])
        for x, *ends in zip(curve[:, 0], low, high, strict=True):
            here = corners[np.isclose(corners[:, 0], x, rtol=1e-12), 1]
            np.testing.assert_allclose([here.min(), here.max()], ends)
    assert any(np.allclose(line.get_ydata(), BASE) for line in axes.lines)


def test_a_fit_without_degrees_of_freedom_has_no_band() -> None:
    fitted, _, drawing = made(("random", "other"), 3, 1, None, True)
    assert not curves.loss_against_tokens(fitted).axes[0].collections
    assert "degrees of freedom" in drawing.skipped["residuals"]


def test_a_method_looks_the_same_in_every_figure(usual: tuple[Study, Comparison, Drawing]) -> None:
    fitted, _, drawing = usual
    styles = styles_of(fitted.methods)
    seen = 0
    for one in drawing.drawn:
        for legend in one.figure.legends:
            handles = zip(legend.get_texts(), legend.legend_handles, strict=True)
            for text, handle in handles:
                if (style := styles.get(text.get_text())) is not None:
                    assert isinstance(handle, mpl.lines.Line2D)
                    assert same_color(handle.get_color(), style.colour)
                    assert handle.get_marker() == style.marker
                    seen += 1
    assert seen > 30


def test_sixteen_methods_differ_in_grey_or_in_colour() -> None:
    styles = list(styles_of([str(n) for n in range(16)]).values())
    assert len({style.marker for style in styles[:8]}) == 8
    assert len(set(styles)) == 16


def test_differences_and_multipliers_are_those_of_the_tables(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    fitted, against, _ = usual
    styles = styles_of(fitted.methods)
    table = against.differences
    axes = compared.differences(fitted, table).axes[0]
    for method, part in table.groupby("method"):
        points, *_ = lines_of(axes, styles[str(method)].colour, styles[str(method)].marker)
        np.testing.assert_allclose(points[:, 1], 1e3 * part["difference"])
    figure = compared.multipliers(fitted, against.multipliers)
    assert len(figure.axes) == against.multipliers["charged"].nunique()
    for axes in figure.axes:
        assert any(np.allclose(line.get_ydata(), 1) for line in axes.lines)
        assert axes.get_yscale() == "log"


def test_crossovers_say_what_is_not_in_range(usual: tuple[Study, Comparison, Drawing]) -> None:
    fitted = usual[0]
    table = pd.DataFrame(
        {
            "method_a": ["random", "random"],
            "method_b": ["perplexity", "influence"],
            "tokens": [8e6, np.nan],
            "ci_low": [4e6, np.nan],
            "ci_high": [np.inf, np.nan],
        }
    )
    axes = compared.crossovers(fitted, table).axes[0]
    assert [text.get_text() for text in axes.texts] == ["none in range"]
    assert [8e6] in [list(line.get_xdata()) for line in axes.lines]


def test_forgetting_takes_the_domain_that_fell_most(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    fitted, against, _ = usual
    assert compared.target_of(against.domains) == "code"
    axes = compared.forgetting(fitted, against.domains).axes[0]
    points = np.concatenate(lines_of(axes, styles_of(fitted.methods)["random"].colour))
    # Simulated changes: 1.5, 0.5 and -0.2 times one number.
    np.testing.assert_allclose(points[:, 1] / points[:, 0], (0.5 - 0.2) / 2 / 1.5)


def test_holdout_errors_are_small_where_the_law_is_true() -> None:
    frame = losses(["random"], 6, 1, sd=0.0)
    errors = checks.holdout_errors(study(read_losses(frame), ["rectified"], BASE))
    # From 3, 4 and 5 budgets, all larger ones.
    assert sorted(errors["factor"].round()) == [4, 4, 4, 16, 16, 64]
    assert errors["error"].abs().max() < 1e-6


def test_the_ridge_goes_through_the_estimate(usual: tuple[Study, Comparison, Drawing]) -> None:
    fitted = usual[0]
    axes = checks.parameter_pairs(fitted).axes[2]
    for method, fit in fitted.chosen.items():
        ridge = max(lines_of(axes, styles_of(fitted.methods)[method].colour, "None"), key=len)
        there = np.interp(fit.estimates["E"], ridge[:, 0], ridge[:, 1])
        assert there == pytest.approx(fit.estimates["beta"], rel=2e-3)


def test_device_hours_add_up(usual: tuple[Study, Comparison, Drawing]) -> None:
    fitted = usual[0]
    more = extras(losses(fitted.methods, 5, 2), fitted.methods)
    figure = runs.device_hours(fitted, more["costs"], more["results"])
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert max(ends) == pytest.approx(10 * 0.5 + 2.0)


def test_a_trunk_costs_once_however_many_branch_off_it() -> None:
    """Two seeds; branches at 3 and 7 hours of a trunk, 1 and 2 hours each; beside them, one cell
    that has no trunk."""
    results = pd.DataFrame(
        {
            "method": ["a"] * 4 + ["b"],
            "seed": [0, 0, 1, 1, 0],
            "device_hours": [4.0, 9.0, 4.0, 9.0, 5.0],
            "own_device_hours": [1.0, 2.0, 1.0, 2.0, np.nan],
        }
    )
    assert runs.hours(["a", "b"], None, results)["train"].to_dict() == {"a": 20.0, "b": 5.0}


def test_files_are_the_same_bytes_and_svg_ids_do_not_clash(
    usual: tuple[Study, Comparison, Drawing], tmp_path: Path
) -> None:
    fitted = usual[0]
    written = []
    for name in ("one", "two"):
        figure = curves.loss_against_tokens(fitted)
        paths = save(figure, tmp_path / name, "figure")
        assert [path.suffix for path in paths] == [".png", ".pdf", ".svg"]
        written.append([path.read_bytes() for path in paths])
        assert svg(figure, "figure").encode() == written[-1][2]
    assert written[0] == written[1]
    assert b"/Type0" in written[0][1] or b"/TrueType" in written[0][1]
    clips = [
        {part.split('"')[0] for part in svg(figure, name).split('clipPath id="')[1:]}
        for name in ("a", "b")
    ]
    assert clips[0]
    assert not clips[0] & clips[1]


def test_the_readers_style_is_neither_used_nor_changed(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    with mpl.rc_context({"font.size": 30, "text.usetex": False, "axes.grid": False}):
        figure = curves.loss_against_tokens(usual[0])
        assert mpl.rcParams["font.size"] == 30
    assert figure.axes[0].xaxis.label.get_fontsize() == 8


def test_one_figure_can_be_drawn_alone_and_reasons_are_given(
    usual: tuple[Study, Comparison, Drawing],
) -> None:
    fitted = usual[0]
    alone = draw_all(fitted, only="loss-vs-tokens")
    assert [one.name for one in alone.drawn] == ["loss-vs-tokens"]
    assert not alone.skipped
    without = draw_all(fitted, only="trajectories")
    assert without.skipped == {"trajectories": "there is no table of trajectories"}
    with pytest.raises(AnalysisError, match="both E and gamma"):
        checks.parameter_pairs(fitted, "E", "gamma")
