"""``hpcscale fit``, ``compare``, ``plot`` and ``report``: analyses of a run directory or a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hpcscale.cli.analysis_options import Asked, asked, say_warnings, shared


@contextmanager
def _our_errors() -> Iterator[None]:
    from hpcscale.errors import DataError
    from scalinglaws import AnalysisError

    try:
        yield
    except AnalysisError as error:
        raise DataError(str(error)) from None


def _run(write: Callable[[Asked], list[Path]], arguments: dict[str, Any]) -> list[Path]:
    with _our_errors():
        wanted = asked(**arguments)
        say_warnings(wanted.analysis)
        return write(wanted)


@click.command("fit")
@shared
@click.option(
    "--holdout",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Also forecast the K largest budgets from the smaller ones.",
)
def fit(**arguments: Any) -> None:
    """Fit scaling laws; write fits.csv and the figure of losses and curves."""
    from scalinglaws import api

    def write(wanted: Asked) -> list[Path]:
        written = api.write_fits(wanted.analysis, wanted.out)
        for line in api.summary(wanted.analysis)["fits"]:
            values = ", ".join(f"{k} {v:.5g}" for k, v in line.get("parameters", {}).items())
            click.echo(f"{line['method']}, {line['law']}: {values or 'no fit'}; {line['message']}")
        if wanted.analysis.held_out is not None:
            missed = wanted.analysis.held_out["relative_error"].abs().mean()
            click.echo(f"hold-out: mean absolute relative error {missed:.3%}")
        return written

    _say(_run(write, arguments))


@click.command("compare")
@shared
def compare(**arguments: Any) -> None:
    """Compare selection methods; write tables and show what differs, by how much, and how certain
    it is.
    """
    from scalinglaws import api

    def write(wanted: Asked) -> list[Path]:
        wanted.analysis.need_comparison()
        written = api.write_tables(wanted.analysis, wanted.out / "tables")
        for sentence in api.sentences(wanted.analysis):
            mark = {"finding": "", "caution": "caution: ", "open": "open: "}[sentence.level]
            click.echo(f"{mark}{sentence.text}")
        return written

    _say(_run(write, arguments))


@click.command("plot")
@shared
def plot(**arguments: Any) -> None:
    """Draw all figures that the data allow, as PNG, PDF and SVG."""
    from scalinglaws import api

    def write(wanted: Asked) -> list[Path]:
        written, skipped = api.write_figures(wanted.analysis, wanted.out)
        for name, reason in skipped.items():
            click.echo(f"not drawn: {name}: {reason}", err=True)
        return written

    _say(_run(write, arguments))


@click.command("report")
@shared
@click.option(
    "--holdout",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Also forecast the K largest budgets from the smaller ones.",
)
def report(**arguments: Any) -> None:
    """Write everything: fits, tables, figures, and report.html, which opens in any browser."""
    from scalinglaws import api

    def write(wanted: Asked) -> list[Path]:
        api.analyse(wanted.analysis, wanted.out)
        return [wanted.out / "report.html"]

    _say(_run(write, arguments))


def _say(written: list[Path]) -> None:
    places = list(dict.fromkeys(path.with_suffix("") for path in written))
    few = written if len(places) <= 3 else [Path(written[0]).parent]
    click.echo(f"written: {', '.join(map(str, few))}")
