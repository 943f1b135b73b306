"""Comparison of selection methods: differences, worth of a token, crossings, uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from scalinglaws.compare.cost import selection, training
from scalinglaws.compare.crossover import crossovers
from scalinglaws.compare.curves import curves_of
from scalinglaws.compare.differences import contrasts, differences
from scalinglaws.compare.domains import domains as by_domain
from scalinglaws.compare.iso_loss import iso_loss
from scalinglaws.compare.multiplier import constant, multipliers
from scalinglaws.compare.nested import joint_fits, nested, steps
from scalinglaws.compare.notes import notes
from scalinglaws.compare.permutation import permutation
from scalinglaws.compare.ranking import ranking
from scalinglaws.errors import AnalysisError
from scalinglaws.study import Study

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """The tables of a comparison, in long form; a table that cannot be made is empty.

    differences, multipliers, crossovers, iso_loss, nested, ranking, domains: see the functions of
    these names. steps: each wider hypothesis against one curve. permutation: exact tests. constant:
    one multiplier for all budgets. notes: how it was done and what could not be done.
    """

    reference: str
    differences: pd.DataFrame
    multipliers: pd.DataFrame
    constant: pd.DataFrame
    crossovers: pd.DataFrame
    iso_loss: pd.DataFrame
    nested: pd.DataFrame
    steps: pd.DataFrame
    permutation: pd.DataFrame
    ranking: pd.DataFrame
    domains: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    study: Study,
    reference: str | None = None,
    *,
    costs: pd.DataFrame | None = None,
    domains: pd.DataFrame | None = None,
    results: pd.DataFrame | None = None,
) -> Comparison:
    """Compare all methods to the reference: by default ``random``, else the first of the table.

    Columns of costs, which are of selection: method, stage, flops, device_hours, shared_with; of
    domains: method, tokens, seed, domain, loss, base_loss; of results: train_flops and device_hours
    of each cell. Raises AnalysisError for a reference that is not a method.
    """
    name = reference_of(study, reference)
    frame = study.losses.frame
    against = contrasts(frame, name)
    curves = curves_of(study)
    prices, picked = training(results), selection(costs)
    joint = joint_fits(study)
    tests = permutation(study, joint)
    worth = multipliers(curves, name, prices, picked)
    return Comparison(
        reference=name,
        differences=differences(against, name),
        multipliers=worth,
        constant=constant(study, name, joint),
        crossovers=crossovers(curves),
        iso_loss=iso_loss(curves, prices),
        nested=nested(joint),
        steps=steps(joint),
        permutation=tests,
        ranking=ranking(frame, study.seed),
        domains=by_domain(domains, name),
        notes=tuple(notes(study, name, curves, against, worth, tests, costs)),
    )


def reference_of(study: Study, name: str | None) -> str:
    """The method of this name, or the default. Raises AnalysisError where there is none."""
    methods = study.methods
    if name is None:
        return "random" if "random" in methods else methods[0]
    if name not in methods:
        raise AnalysisError(
            f"there is no method `{name}` to compare with; known: {', '.join(methods)}"
        )
    return name
