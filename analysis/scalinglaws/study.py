"""One table of losses with its fits: every law on every method, and paired draws of one law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import DRAWS, Draws, wild
from scalinglaws.choice import Choice, choose
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import Objective, fit_law, with_intervals
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats, Law, Points, make_laws
from scalinglaws.read import Losses

#: A lack of fit at this level makes budgets, not runs, the clusters that are resampled.
LACK = 0.05


def points_of(frame: pd.DataFrame) -> Points:
    """The variables of a table of losses, as far as it has them."""
    given = {}
    for name in ("model_size", "unique_tokens"):
        if name in frame and frame[name].notna().all():
            given[name] = frame[name].to_numpy(float)
    return Points(frame["tokens"].to_numpy(float), **given)


def seed_weights(frame: pd.DataFrame) -> Floats:
    """Weights [n] of mean 1 from the seeds' variance at each budget.

    A variance from few seeds is uncertain, so it is averaged with the pooled one, which counts as 2
    degrees of freedom.
    """
    groups = frame.groupby("budget")["loss"]
    count = groups.transform("count").to_numpy(float)
    spread = groups.transform("var").fillna(0.0).to_numpy(float)
    degrees = count - 1
    pooled = float((spread * degrees / count).sum() / max((degrees / count).sum(), 1e-300))
    if pooled <= 0:
        return np.ones(len(frame))
    weights = 1 / ((spread * degrees + pooled * 2) / (degrees + 2))
    return np.asarray(weights / weights.mean())


@dataclass(frozen=True)
class Failure:
    """A fit that was not tried, and why."""

    method: str
    law: str
    message: str


@dataclass(frozen=True)
class Study:
    """Fits by method and law. All comparisons use ``law``, the same for every method."""

    losses: Losses
    base_loss: float | None
    laws: tuple[Law, ...]
    fits: dict[str, dict[str, Fit]]
    failures: tuple[Failure, ...]
    seed: int = 0

    @property
    def methods(self) -> list[str]:
        return self.losses.methods

    @cached_property
    def choice(self) -> Choice:
        """The chosen law and the evidence for it."""
        return choose(self.fits, self.laws)

    @property
    def law(self) -> str | None:
        """The law by which methods are compared; None where no law could be fitted."""
        return self.choice.law

    @property
    def chosen(self) -> dict[str, Fit]:
        """The fits of ``law``, of the methods that have one."""
        return {m: fits[self.law] for m, fits in self.fits.items() if self.law in fits}

    @cached_property
    def draws(self) -> dict[str, Draws]:
        """Paired resampled fits of ``law``, by method."""
        return self.resample(DRAWS)

    def resample(self, count: int) -> dict[str, Draws]:
        """``count`` paired draws of ``law``, by method."""
        return wild(self.chosen, self.clusters, count, self.seed)

    @property
    def cluster_kind(self) -> str:
        """The clusters: ``runs``, or ``budgets`` where a fit misses the means of budgets.

        The level is shared by the methods (Bonferroni).
        """
        missed = [fit.tests.get("lack_of_fit", 1.0) for fit in self.chosen.values()]
        return "budgets" if min(missed, default=1.0) * len(missed) < LACK else "runs"

    @cached_property
    def clusters(self) -> dict[str, list[str]]:
        """One label per point, by method: its run, or its budget."""
        by_budget = self.cluster_kind == "budgets"
        return {name: labels(self.part(name), by_budget) for name in self.chosen}

    def part(self, method: str) -> pd.DataFrame:
        """The rows of one method."""
        return self.losses.frame[self.losses.frame["method"] == method]


def labels(frame: pd.DataFrame, by_budget: bool) -> list[str]:
    """Clusters of one method's rows. Checkpoints of one ``run`` share a cluster where it is given.

    Rows without a seed are numbered within their budget.
    """
    budgets = frame["budget"].map("{:.6g}".format)
    if by_budget:
        return list(budgets)
    if "run" in frame and frame["run"].notna().all():
        return list(frame["run"].astype(str))
    known = "seed" in frame and bool(frame["seed"].notna().all())
    seeds = frame["seed"] if known else frame.groupby("budget").cumcount()
    sizes = frame["model_size"].astype(str) if "model_size" in frame else ""
    return list(budgets + "/" + seeds.astype(str) + "/" + sizes)


def study(
    losses: Losses,
    laws: Sequence[str] | None = None,
    base_loss: float | None = None,
    weights: str = "none",
    objective: Objective = "squares",
    seed: int = 0,
) -> Study:
    """Fit laws (all that the data allow by default) to every method.

    weights: ``none`` or ``seeds``. A fit that the data do not allow is a ``Failure`` and does not
    stop the others. Raises AnalysisError for an unknown law or weights.
    """
    if weights not in ("none", "seeds"):
        raise AnalysisError(f"weights are `none` or `seeds`, not `{weights}`")
    tried = make_laws(laws, points_of(losses.frame), base_loss)
    fits: dict[str, dict[str, Fit]] = {}
    failures = []
    for method in losses.methods:
        frame = losses.frame[losses.frame["method"] == method]
        fits[method] = {}
        weight = seed_weights(frame) if weights == "seeds" else None
        for law in tried:
            try:
                fit = fit_law(
                    law,
                    points_of(frame),
                    frame["loss"].to_numpy(float),
                    weight,
                    objective,
                    intervals=False,
                )
            except AnalysisError as error:
                failures.append(Failure(method, law.name, str(error)))
                continue
            fits[method][law.name] = with_intervals(fit)
    return Study(losses, base_loss, tuple(tried), fits, tuple(failures), seed)
