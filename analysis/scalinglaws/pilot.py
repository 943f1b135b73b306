"""What a plan takes from an earlier sweep: its noise, and the reference's curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from scalinglaws.design import EXPONENT, REDUCIBLE, TYPICAL_SD, Design, Noise, assumed_curve
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.inputs import Inputs
from scalinglaws.laws import Law, Power, Rectified
from scalinglaws.read import Losses
from scalinglaws.study import points_of

#: Degrees of freedom below which a correlation is chance and counts as 0.
_ENOUGH = 10
_KEYS = ("method", "budget", "model_size")


@dataclass(frozen=True)
class Basis:
    """The assumptions of a plan: noise and the reference's curve, and where each comes from."""

    noise: Noise
    noise_from: str
    curve: Fit
    curve_from: str


def basis(
    design: Design,
    pilot: Inputs | None = None,
    sd: float | None = None,
    correlation: float | None = None,
    reducible: float | None = None,
    exponent: float | None = None,
) -> Basis:
    """The stated values, else those that the pilot measured, else common ones.

    Where a pilot gives no noise or no curve, the text says so and the common value is used.
    """
    noise, noise_from = _noise(pilot, sd, correlation)
    if pilot is not None and reducible is None and exponent is None:
        try:
            curve, name = reference_curve(pilot.losses, pilot.base_loss)
            told = f"the {curve.law.name} law fitted to `{name}` of {pilot.source}"
            return Basis(noise, noise_from, curve, told)
        except AnalysisError as error:
            why = f"assumed, since {error}"
    else:
        why = "assumed" if reducible is None or exponent is None else "stated"
    height, power = reducible or REDUCIBLE, exponent or EXPONENT
    curve = assumed_curve(design.budgets, height, power)
    told = f"{height:g} nats above its floor at the smallest budget, exponent {power:g} ({why})"
    return Basis(noise, noise_from, curve, told)


def _noise(pilot: Inputs | None, sd: float | None, correlation: float | None) -> tuple[Noise, str]:
    paired = f"correlation {correlation or 0.0:g} between methods"
    if sd is not None:
        return Noise(sd, correlation or 0.0), f"seed sd {sd:g} nats (stated), {paired}"
    why = "assumed; published reruns have 0.0005 to 0.002"
    if pilot is not None:
        try:
            noise = measured_noise(pilot.losses)
        except AnalysisError as error:
            why = f"assumed, since {error}"
        else:
            if correlation is not None:
                noise = replace(noise, correlation=correlation)
            low, high = noise.interval()
            return noise, (
                f"seed sd {noise.sd:.2g} nats ({low:.2g} to {high:.2g}; {noise.degrees} degrees of "
                f"freedom, {pilot.source}), correlation {noise.correlation:.2g} between methods"
            )
    return Noise(TYPICAL_SD, correlation or 0.0), f"seed sd {TYPICAL_SD:g} nats ({why}), {paired}"


def measured_noise(losses: Losses) -> Noise:
    """The sd over seeds, pooled over methods and budgets, and the correlation of paired methods.

    A correlation from fewer than 10 degrees of freedom counts as 0. Raises AnalysisError where no
    cell has two seeds, or seeds do not differ.
    """
    frame = losses.frame
    keys = [key for key in _KEYS if key in frame]
    groups = frame.groupby(keys, dropna=False)["loss"]
    apart = frame["loss"] - groups.transform("mean")
    degrees = len(frame) - groups.ngroups
    if degrees < 1:
        raise AnalysisError(
            "no cell of the table has two seeds to measure the noise; state it with --noise"
        )
    sd = float(np.sqrt((apart**2).sum() / degrees))
    if sd == 0:
        raise AnalysisError("seeds of the table do not differ at all; state the noise with --noise")
    return Noise(sd, _correlation(frame, keys), degrees)


def _correlation(frame: pd.DataFrame, keys: list[str]) -> float:
    """The correlation within budgets, pooled over budgets and pairs of methods."""
    if "seed" not in frame:
        return 0.0
    place = [*(key for key in keys if key != "method"), "seed"]
    wide = frame.pivot_table(index=place, columns="method", values="loss", dropna=False)
    crossed = first = second = 0.0
    degrees = 0
    for a, b in combinations(wide.columns, 2):
        both = wide[[a, b]].dropna()
        groups = both.groupby(level=place[:-1])
        apart = both - groups.transform("mean")
        crossed += float((apart[a] * apart[b]).sum())
        first += float((apart[a] ** 2).sum())
        second += float((apart[b] ** 2).sum())
        degrees = max(degrees, len(both) - groups.ngroups)
    if degrees < _ENOUGH or first * second <= 0:
        return 0.0
    return float(np.clip(crossed / np.sqrt(first * second), -1, 0.99))


def reference_curve(losses: Losses, base_loss: float | None = None) -> tuple[Fit, str]:
    """The curve of ``random``, or of the first method, and its name.

    The rectified law where the base model's loss is known, else the power law. Raises AnalysisError
    where neither can be fitted.
    """
    name = "random" if "random" in losses.methods else losses.methods[0]
    part = losses.frame[losses.frame["method"] == name]
    why = ""
    tried: list[Law] = [Power()] if base_loss is None else [Rectified(base_loss), Power()]
    for law in tried:
        try:
            fit = fit_law(law, points_of(part), part["loss"].to_numpy(float), intervals=False)
        except AnalysisError as error:
            why = str(error)
            continue
        if fit.converged:
            return fit, name
        why = fit.message
    raise AnalysisError(f"`{name}` of the table gives no curve ({why})")
