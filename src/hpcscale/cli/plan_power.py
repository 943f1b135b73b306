"""``hpcscale plan-power``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("plan-power")
@click.argument(
    "source", metavar="[SWEEP.yaml|RUN|CSV]", required=False, type=click.Path(path_type=Path)
)
@click.option("--effect", type=float, metavar="NATS", help="Difference to find; default: 0.01.")
@click.option("--multiplier", type=float, metavar="X", help="Or as a token multiplier: 1.2.")
@click.option("--noise", type=float, metavar="NATS", help="Seed sd; default: measured, or 0.002.")
@click.option(
    "--correlation", type=float, help="Of two methods at one seed; default: measured, or 0."
)
@click.option(
    "--reducible",
    type=float,
    metavar="NATS",
    help="Loss above the curve's floor at the smallest budget; default: the run's curve, or 0.45.",
)
@click.option("--exponent", type=float, help="Exponent of that curve; default: the run's, or 0.3.")
@click.option("--budgets", metavar="LIST", help="1M,4M,16M or 1M:300M:6 (six from 1M to 300M).")
@click.option("--seeds", type=click.IntRange(1), help="Seeds a cell.")
@click.option("--methods", type=click.IntRange(1), help="Methods, with the reference.")
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True, help="Chance to find it.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Names in the CSV: tokens=D,loss=L.")
def command(source: Path | None, columns: str | None, **options: Any) -> None:
    """Show what a grid can tell apart, and how many seeds and budgets would suffice.

    Grid, noise and curve come from a sweep file, a run directory or a table of losses, as far as
    options do not state them.
    """
    from hpcscale.cli.analysis_options import columns_of
    from hpcscale.tools.plan_power import Question, plan_power

    if source is None and options["budgets"] is None:
        raise click.UsageError("name a sweep file, a run or a CSV, or give --budgets 1M:300M:6")
    click.echo(plan_power(Question(source, columns_of(columns), **options)))
