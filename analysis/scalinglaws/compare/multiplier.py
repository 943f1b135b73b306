"""What a token chosen by a method is worth: tokens that the reference needs for the same loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import Draws, wild
from scalinglaws.compare.cost import UNITS, Costs
from scalinglaws.compare.curves import Curves, interval, token_grid
from scalinglaws.compare.joint import JointLaw
from scalinglaws.compare.nested import EFFICIENCY, FREE, f_test
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats
from scalinglaws.study import Study

MULTIPLIERS = "method reference tokens multiplier ci_low ci_high charged extrapolated".split()
CONSTANT = ["method", "reference", "multiplier", "ci_low", "ci_high", "p"]


def multipliers(
    curves: Mapping[str, Curves],
    reference: str,
    training: Costs | None = None,
    selection: Costs | None = None,
    tokens: Floats | None = None,
) -> pd.DataFrame:
    """m(D) = D_reference(L_method(D)) / D, with 95 % intervals from paired draws.

    A loss that the reference never reaches is worth infinitely many tokens, in a draw as in the
    estimate. charged: ``none``, or the unit in which m is the cost of training the reference to
    that loss over that of training the method at D and selecting for it once; the reference's own
    selection, if it has any, counts as well. tokens [m]: where m is computed; default: the budgets,
    steps of 2 between, and up to 4 times the largest (``extrapolated``).
    """
    if reference not in curves:
        return pd.DataFrame(columns=MULTIPLIERS)
    rows = [
        row
        for method, own in curves.items()
        if method != reference
        for row in _rows(
            method, own, reference, curves[reference], tokens, training or {}, selection or {}
        )
    ]
    return pd.DataFrame(rows, columns=MULTIPLIERS)


def _rows(
    method: str,
    own: Curves,
    reference: str,
    other: Curves,
    tokens: Floats | None,
    training: Costs,
    selection: Costs,
) -> Iterator[list[object]]:
    at = token_grid(own) if tokens is None else np.asarray(tokens, float)
    needed = other.tokens_for(own.losses(at))
    for charged in ("none", *UNITS):
        worth = needed / at
        if charged != "none":
            prices = training.get(charged, {})
            picked = selection.get(charged, {})
            if method not in prices or reference not in prices or method not in picked:
                continue
            worth = (needed * prices[reference] + picked.get(reference, 0.0)) / (
                at * prices[method] + picked[method]
            )
        low, high = interval(worth[1:], own.fit, other.fit)
        beyond = (at > own.high * 1.001) | (at < own.low * 0.999)
        for values in zip(at, worth[0], low, high, beyond, strict=True):
            *numbers, extrapolated = values
            yield [method, reference, *map(float, numbers), charged, bool(extrapolated)]


def constant(study: Study, reference: str, joint: Mapping[str, Mapping[str, Fit]]) -> pd.DataFrame:
    """One multiplier for all budgets: that of the hypothesis that methods differ in efficiency.

    joint: ``joint_fits`` of the study. p: of that hypothesis against free curves of the two.
    Interval from draws of the joint fit. Curves are read at the geometric mean of the method's
    tokens; where a law's efficiency is not a plain factor of tokens, the multiplier holds only
    there.
    """
    rows = []
    for fits in joint.values():
        fit = fits[EFFICIENCY]
        law = fit.law
        assert isinstance(law, JointLaw)
        if len(law.methods) != 2 or reference not in law.methods:
            continue
        (method,) = (name for name in law.methods if name != reference)
        labels = [label for name in law.methods for label in study.clusters[name]]
        draws = wild({EFFICIENCY: fit}, {EFFICIENCY: labels}, seed=study.seed)[EFFICIENCY]
        base, own = (_part(study, law, draws, name) for name in (reference, method))
        at = np.exp(np.log(own.fit.problem.x.tokens).mean(keepdims=True))
        worth = base.tokens_for(own.losses(at)) / at
        low, high = interval(worth[1:], fit)
        p = f_test(fit, fits[FREE])[1]
        rows.append([method, reference, float(worth[0, 0]), float(low[0]), float(high[0]), p])
    return pd.DataFrame(rows, columns=CONSTANT)


def _part(study: Study, law: JointLaw, draws: Draws, method: str) -> Curves:
    """One method's curve of a joint fit and its draws."""
    whole = Curves.of(draws)
    logs, amplitudes = law.part(draws.fit, whole.logs, whole.amplitudes, method)
    return Curves(study.chosen[method], logs, amplitudes)
