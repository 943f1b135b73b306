"""All figures of an analysis, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from scalinglaws.compare import Comparison
from scalinglaws.errors import AnalysisError
from scalinglaws.figures import checks, compare, curves, runs
from scalinglaws.forecasts import FACTOR
from scalinglaws.study import Study

Extras = Mapping[str, pd.DataFrame | None]


@dataclass(frozen=True)
class Drawn:
    """A figure, its caption, its alternative text, and its section of the report."""

    name: str
    figure: Figure
    caption: str
    alt: str
    section: str


@dataclass(frozen=True)
class Drawing:
    """The figures, and for each one that the data do not allow, the reason."""

    drawn: tuple[Drawn, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class _Data:
    study: Study
    known: Comparison | None
    extras: Extras

    @property
    def comparison(self) -> Comparison:
        if self.known is None:
            raise AnalysisError("there is one method and nothing to compare it with")
        return self.known

    def extra(self, name: str) -> pd.DataFrame:
        frame = self.extras.get(name)
        if frame is None:
            raise AnalysisError(f"there is no table of {name}")
        return frame


@dataclass(frozen=True)
class _Entry:
    """caption may name {law}, {runs}, {budgets}, {draws}, {clusters}, {reference}, {target}."""

    name: str
    section: str
    draw: Callable[[_Data], Figure]
    alt: str
    caption: str


_CURVES, _COMPARED, _DOMAINS = "Losses and curves", "Comparison of methods", "Domains"
_BELIEVED, _RUNS = "Can the fits be believed?", "Runs and costs"
_ENTRIES = (
    _Entry(
        "loss-vs-tokens",
        _CURVES,
        lambda d: curves.loss_against_tokens(d.study),
        "Eval loss falls with training tokens; one curve a selection method.",
        "Eval loss against training tokens. Points are single runs ({runs}), curves the fitted "
        "{law} law, bands its pointwise 95 % intervals ({draws} resampled fits; {clusters} are "
        "resampled). A fit that did not converge has no band.",
    ),
    _Entry(
        "loss-extrapolated",
        _CURVES,
        lambda d: curves.loss_against_tokens(d.study, FACTOR),
        "The same curves, dashed to four times the largest budget.",
        "The {law} law, dashed beyond the data to 4 times the largest budget. Bands are "
        "pointwise 95 % intervals if the law holds there. Points are single runs ({runs}).",
    ),
    _Entry(
        "reducible-loss",
        _CURVES,
        lambda d: curves.reducible_loss(d.study),
        "Loss less its floor against tokens, on logarithmic axes.",
        "Loss less each method's fitted floor E, on logarithmic axes. Points are single runs "
        "({runs}) above the floor, curves the {law} law, bands 95 % intervals with E resampled "
        "too ({draws} draws).",
    ),
    _Entry(
        "multipliers",
        _COMPARED,
        lambda d: compare.multipliers(d.study, d.comparison.multipliers),
        "Token multiplier of each method against training tokens, with a line at 1.",
        "Tokens that {reference} needs for the same loss, divided by the tokens used: above 1 "
        "the method saves tokens. Bands are 95 % intervals of paired draws ({draws}); dashed parts "
        "are beyond the data of one of the two curves. Factors beyond 16 are cut off.",
    ),
    _Entry(
        "differences",
        _COMPARED,
        lambda d: compare.differences(d.study, d.comparison.differences),
        "Difference in loss to the reference at each budget, with a line at 0.",
        "Mean loss less that of {reference} at each of {budgets} budgets: below 0 the method is "
        "better. Bars are 95 % intervals; seeds are paired where both methods have them.",
    ),
    _Entry(
        "crossovers",
        _COMPARED,
        lambda d: compare.crossovers(d.study, d.comparison.crossovers),
        "Tokens at which pairs of fitted curves cross, one line a pair.",
        "Training tokens at which two fitted curves cross. Lines are 95 % intervals over the "
        "draws that cross ({draws} draws); the measured range is shaded.",
    ),
    _Entry(
        "iso-loss",
        _COMPARED,
        lambda d: compare.iso_loss(d.study, d.comparison.iso_loss),
        "Training tokens that each method needs to reach given losses.",
        "Training tokens that the fitted curves need to reach a loss. Bars are 95 % intervals "
        "({draws} draws); crosses mark points beyond the data.",
    ),
    _Entry(
        "domains",
        _DOMAINS,
        lambda d: compare.domains(d.study, d.comparison.domains),
        "Loss against tokens in each domain, one panel a domain.",
        "Loss by domain, mean over seeds, at each of {budgets} budgets. The dotted line is the "
        "base model. Panels have their own vertical axes.",
    ),
    _Entry(
        "forgetting",
        _DOMAINS,
        lambda d: compare.forgetting(d.study, d.comparison.domains),
        "Change of loss in the target domain against the mean change in the other domains.",
        "Change of loss from the base model: {target}, whose loss fell most, against the plain "
        "mean of the other domains. Larger marks are larger budgets, means over seeds. Above "
        "the horizontal line the other domains are forgotten.",
    ),
    _Entry(
        "residuals",
        _BELIEVED,
        lambda d: checks.residuals(d.study),
        "Residuals against tokens, and a normal quantile plot of them.",
        "Left: residuals of the {law} law ({runs}), drawn side by side at each budget. Right: "
        "residuals over their standard deviation against normal quantiles; on the line they "
        "are normal.",
    ),
    _Entry(
        "holdout-error",
        _BELIEVED,
        lambda d: checks.holdout_error(d.study),
        "Forecast error against how far beyond the fitted budgets it is, one panel a law.",
        "Each law is fitted to the budgets up to one of them and forecasts the mean loss of "
        "every larger one. Points are forecast over measured loss less 1; fits that did not "
        "converge are left out. Beyond 5 %, the axis is logarithmic from 1 %.",
    ),
    _Entry(
        "profiles",
        _BELIEVED,
        lambda d: checks.profiles(d.study),
        "Profile likelihood of each parameter, with the thresholds of the 95 % interval.",
        "Profile likelihoods of the {law} law's parameters: signed root of the F statistic with "
        "one parameter held. A straight line is an ellipse; a curve that stays between the "
        "dotted lines leaves its side of the 95 % interval open.",
    ),
    _Entry(
        "parameter-pairs",
        _BELIEVED,
        lambda d: checks.parameter_pairs(d.study),
        "Resampled values of the floor E against the exponent beta.",
        "Floor E against exponent beta of {draws} resampled fits (dots, the middle 98 %), with "
        "their histograms. Lines are the best beta for each E; large marks the estimates.",
    ),
    _Entry(
        "trajectories",
        _RUNS,
        lambda d: runs.trajectories(d.study, d.extra("trajectories")),
        "Training loss against tokens seen, one panel a budget.",
        "Training loss against tokens seen: running means over a 25th of the steps, of the mean "
        "over seeds. Marks are eval losses.",
    ),
    _Entry(
        "overlap",
        _RUNS,
        lambda d: runs.overlap(d.study, d.extra("overlap")),
        "Heat map of the share of tokens that two methods' selections have in common.",
        "Tokens in both selections over tokens in either, mean over seeds, at the largest "
        "budget. Columns are the methods of the rows.",
    ),
    _Entry(
        "device-hours",
        _RUNS,
        lambda d: runs.device_hours(d.study, d.extras.get("costs"), d.extra("results")),
        "Stacked bars of device-hours by method and stage.",
        "Device time by method: training of all cells, and stages of selecting. A stage that "
        "methods share counts fully for each.",
    ),
)
#: In the order of the report.
NAMES = tuple(entry.name for entry in _ENTRIES)


def draw_all(
    study: Study,
    comparison: Comparison | None = None,
    extras: Extras | None = None,
    *,
    only: str | None = None,
) -> Drawing:
    """Every figure that the data allow, or only the one named ``only``.

    extras: frames by name: trajectories, overlap, costs, results, as a sweep writes them.
    """
    data = _Data(study, comparison, extras or {})
    drawn, skipped = [], {}
    for entry in _ENTRIES:
        if only not in (None, entry.name):
            continue
        try:
            figure = entry.draw(data)
        except AnalysisError as error:
            skipped[entry.name] = str(error)
            continue
        caption = entry.caption.format_map(_facts(data))
        drawn.append(Drawn(entry.name, figure, caption, entry.alt, entry.section))
    return Drawing(tuple(drawn), skipped)


def _facts(data: _Data) -> dict[str, str]:
    """What captions say about the data."""
    study, known = data.study, data.known
    frame = study.losses.frame
    domains = None if known is None else known.domains
    has = domains is not None and bool(domains["change"].notna().any())
    return {
        "law": study.law or "chosen",
        "runs": f"n = {len(frame)}",
        "budgets": str(frame["budget"].nunique()),
        "draws": str(max((len(d) for d in study.draws.values()), default=0)),
        "clusters": study.cluster_kind,
        "reference": "the reference" if known is None else known.reference,
        "target": compare.target_of(domains) if has and domains is not None else "",
    }
