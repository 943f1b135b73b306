"""An analysis: the chosen options, and parts that are computed once, on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from scalinglaws.compare import Comparison, compare
from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import Objective
from scalinglaws.forecasts import forecasts, holdout
from scalinglaws.inputs import Inputs, read_inputs
from scalinglaws.study import Study, study


@dataclass(frozen=True)
class Options:
    """What a user can choose.

    laws: names; empty for all that the data allow. columns: from our names to the table's.
    base_loss: nats a token; None for the table's own. reference: the method that the others are
    compared with; None for ``random``, or else the first. weights: ``none`` or ``seeds``. holdout:
    how many of the largest budgets to forecast from the others.
    """

    laws: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    base_loss: float | None = None
    reference: str | None = None
    weights: str = "none"
    objective: Objective = "squares"
    keep_outliers: bool = False
    holdout: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Analysis:
    """The analysis of ``source``: a CSV, a frame, or the directory of a sweep's ``results.csv``.

    A part raises AnalysisError on first use where the data or the options do not allow it.
    """

    source: Path | str | pd.DataFrame
    options: Options = field(default_factory=Options)

    @cached_property
    def inputs(self) -> Inputs:
        chosen = self.options
        return read_inputs(self.source, chosen.columns, chosen.base_loss, chosen.keep_outliers)

    @cached_property
    def study(self) -> Study:
        chosen, inputs = self.options, self.inputs
        return study(
            inputs.losses,
            chosen.laws or None,
            inputs.base_loss,
            chosen.weights,
            chosen.objective,
            chosen.seed,
        )

    @cached_property
    def comparison(self) -> Comparison | None:
        """The comparison; None where there is only one method and no reference was asked for."""
        if len(self.study.methods) < 2 and self.options.reference is None:
            return None
        return compare(
            self.study,
            self.options.reference,
            costs=self.inputs.costs,
            domains=self.inputs.domains,
            results=self.inputs.results,
        )

    @cached_property
    def ahead(self) -> pd.DataFrame:
        """Forecasts of all laws beyond the data."""
        return forecasts(self.study)

    @cached_property
    def held_out(self) -> pd.DataFrame | None:
        """The forecasts of held-out budgets; None where the options hold out none."""
        return holdout(self.study, self.options.holdout) if self.options.holdout else None

    @property
    def warnings(self) -> list[str]:
        """Warnings about the data, one sentence each."""
        return self.inputs.losses.warnings

    def need_comparison(self) -> Comparison:
        """The comparison. Raises AnalysisError where there is none."""
        if self.comparison is None:
            raise AnalysisError(
                f"there is one method, {self.study.methods[0]}, and nothing to compare it with; "
                f"map the column that names methods with --columns method=NAME"
            )
        return self.comparison
