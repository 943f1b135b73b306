"""The tables of an analysis: parameters, laws, tests, comparisons, raw cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from scalinglaws.compare import Comparison
from scalinglaws.study import Study
from scalinglaws.tables import Table

PARAMETERS = "law method parameter estimate ci_low ci_high converged identified".split()
_TOKENS = {"budget": "training tokens", "tokens": "training tokens"}
_NATS = " in nats a token"


def parameters(study: Study) -> pd.DataFrame:
    """One row per parameter of each fit; an open end of an interval is NaN."""
    rows = [
        [
            name,
            method,
            parameter,
            value,
            *_ends(fit.intervals.get(parameter)),
            fit.converged,
            fit.identified,
        ]
        for method, by_law in study.fits.items()
        for name, fit in by_law.items()
        for parameter, value in fit.estimates.items()
    ]
    return pd.DataFrame(rows, columns=PARAMETERS)


def _ends(interval: tuple[float, float] | None) -> list[float]:
    return [end if np.isfinite(end) else np.nan for end in interval or (np.nan, np.nan)]


def cells(study: Study) -> pd.DataFrame:
    """Mean, standard deviation over seeds and count at each method's budgets."""
    groups = study.losses.frame.groupby(["method", "budget"], sort=False)["loss"]
    frame = groups.agg(mean="mean", sd="std", n="count").reset_index()
    return frame.sort_values(["method", "budget"], ignore_index=True)


def diagnostics(study: Study) -> pd.DataFrame:
    """How each optimum was reached, and the tests of its residuals (p values)."""
    rows = [
        {
            "law": name,
            "method": method,
            "converged": fit.converged,
            "identified": fit.identified,
            "residual_sd": fit.residual_sd,
            "gradient": fit.diagnostics.gradient,
            "starts": fit.diagnostics.starts,
            "agreeing": fit.diagnostics.agreeing,
            "condition": fit.diagnostics.condition,
            "at_bound": ", ".join(fit.diagnostics.at_bound),
            **{test: fit.tests.get(test, np.nan) for test in _TESTS},
            "message": fit.message,
        }
        for method, by_law in study.fits.items()
        for name, fit in by_law.items()
    ]
    rows += [
        {
            "law": failed.law,
            "method": failed.method,
            "converged": False,
            "identified": False,
            "message": failed.message,
        }
        for failed in study.failures
    ]
    return pd.DataFrame(rows)


_TESTS = ("lack_of_fit", "spread_with_tokens", "normality", "order")


def fit_tables(study: Study, ahead: pd.DataFrame) -> list[Table]:
    """Parameters, model choice, forecasts, diagnostics, raw cells. ahead: ``forecasts``."""
    formulas = "; ".join(f"{law.name}: {law.formula}" for law in study.laws)
    return [
        Table(
            "parameters",
            "Parameters of the fitted laws.",
            parameters(study),
            notes=f"{formulas}. An interval is open where the data do not bound it.",
        ),
        Table(
            "model-choice",
            "Which law the data support.",
            study.choice.table,
            labels={
                "aicc": "AICc",
                "delta_aicc": "AICc above the least",
                "leave_one_out": f"error of left-out budgets{_NATS}",
                "holdout": "error at the largest budget, held out",
            },
            formats={"leave_one_out": "loss", "holdout": "percent"},
            notes="AICc sees the points it is fitted to; the two errors are forecasts.",
        ),
        Table(
            "forecasts",
            "Forecasts of each law beyond the data.",
            ahead,
            labels=_TOKENS | {"loss": f"loss{_NATS}"},
        ),
        Table(
            "diagnostics",
            "How each fit was reached, and tests of its residuals.",
            diagnostics(study),
            labels={"agreeing": "starts that agree", "residual_sd": f"residual sd{_NATS}"},
            formats=dict.fromkeys(_TESTS, "p") | {"agreeing": "percent"},
            notes="The tests' columns are p values: small ones are evidence against the fit.",
        ),
        Table(
            "cells",
            "The measured losses.",
            cells(study),
            labels=_TOKENS | {"mean": f"mean loss{_NATS}", "sd": "sd over seeds"},
            formats={"mean": "loss", "sd": "loss"},
        ),
    ]


def comparison_tables(found: Comparison) -> Iterator[Table]:
    """The tables of a comparison that are not empty."""
    reference = found.reference
    tables = [
        Table(
            "differences",
            f"Loss of each method less that of {reference}, at each budget.",
            found.differences,
            labels=_TOKENS | {"difference": f"difference{_NATS}", "p_holm": "p by Holm"},
            notes="Negative is better than the reference.",
        ),
        Table(
            "multipliers",
            f"Tokens that {reference} needs for the same loss, over tokens used.",
            found.multipliers,
            labels=_TOKENS | {"charged": "cost of selection charged in"},
        ),
        Table(
            "efficiency",
            f"One multiplier for all budgets, against {reference}.",
            found.constant,
            labels={"p": "p against free curves"},
            notes="From curves that share all parameters except the worth of a token.",
        ),
        Table(
            "crossovers",
            "Budgets at which two methods' curves cross.",
            found.crossovers,
            labels=_TOKENS | {"share": "share of draws that cross"},
        ),
        Table(
            "iso-loss",
            "Tokens that each method needs to reach a loss.",
            found.iso_loss,
            labels=_TOKENS | {"loss": f"loss{_NATS}", "flops": "FLOPs"},
        ),
        Table(
            "nested-tests",
            "How much of the curves the methods share.",
            found.nested,
            labels={
                "aicc": "AICc",
                "delta_aicc": "AICc above the least",
                "f": "F",
                "sse": "sum of squares",
                "p": "p against free curves",
                "p_holm": "p by Holm",
            },
        ),
        Table(
            "nested-steps",
            "What each wider hypothesis adds to one curve.",
            found.steps,
            labels={"f": "F"},
        ),
        Table(
            "permutation",
            "Methods' names shuffled within budget and seed.",
            found.permutation,
            formats={"least_p": "p"},
            labels={"least_p": "smallest possible p", "statistic": "of"},
        ),
        Table(
            "ranking",
            "How well small budgets predict the order at the largest.",
            found.ranking,
            labels={"budget": "training tokens", "largest": "largest budget"},
        ),
        Table(
            "domains",
            "Losses by domain.",
            found.domains,
            labels=_TOKENS
            | {"change": "change from the base model", "difference": f"difference to {reference}"},
        ),
    ]
    return (table for table in tables if not table.frame.empty)
