"""Arguments that all commands of the analysis share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from scalinglaws.analysis import Analysis

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Asked:
    """An analysis that was asked for, and where its output goes."""

    analysis: Analysis
    out: Path


def columns_of(text: str | None) -> dict[str, str]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    for ours, equals, theirs in pairs:
        if not (ours.strip() and equals and theirs.strip()):
            raise click.BadParameter("write it as tokens=D,loss=L", param_hint="--columns")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


_SHARED = [
    click.argument("source", metavar="RUN|CSV", type=click.Path(path_type=Path)),
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Default: RUN/analysis; must be given for a CSV.",
    ),
    click.option(
        "--law",
        "laws",
        multiple=True,
        metavar="NAME",
        help="Repeatable; default: all that the data allow. Your own: MODULE:CLASS.",
    ),
    click.option(
        "--columns",
        metavar="OURS=THEIRS,...",
        help="Names in the CSV: tokens=D,loss=L,model_size=N.",
    ),
    click.option(
        "--base-loss",
        type=float,
        metavar="NATS",
        help="Loss of the base model; default: the run's own; without one, it is fitted.",
    ),
    click.option(
        "--reference",
        metavar="METHOD",
        help="Method to compare with; default: random, else the first.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["none", "seeds"]),
        default="none",
        help="Weigh budgets by the variance of their seeds.",
    ),
    click.option(
        "--objective",
        type=click.Choice(["squares", "huber"]),
        default="squares",
        help="Least squares of the loss, or Huber's loss of its logarithm.",
    ),
    click.option("--keep-outliers", is_flag=True, help="Keep cells that look as if they diverged."),
]


def shared(command: _Command) -> _Command:
    """Give a command the arguments of every analysis."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def asked(source: Path, out: Path | None, columns: str | None, **options: Any) -> Asked:
    """The analysis that the arguments ask for. Raises DataError where a run has no results yet."""
    from hpcscale.errors import DataError
    from hpcscale.rundir.layout import ANALYSIS, RESULTS
    from scalinglaws.analysis import Analysis, Options

    if source.is_dir():
        directory = source / ANALYSIS if (source / ANALYSIS).is_dir() else source
        if not (directory / RESULTS).exists():
            raise DataError(
                f"{source / ANALYSIS / RESULTS} is missing; `hpcscale sweep` writes it "
                "once a cell is done"
            )
        source, out = directory, out or directory
    if out is None:
        raise click.UsageError("--out DIR is needed for a CSV")
    options["laws"] = tuple(options["laws"])
    return Asked(Analysis(source, Options(columns=columns_of(columns), **options)), out)


def say_warnings(analysis: Analysis) -> None:
    """Print the warnings about the data on stderr."""
    for warning in analysis.warnings:
        click.echo(f"warning: {warning}", err=True)
