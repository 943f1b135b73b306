"""``hpcscale doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpcscale.pipeline.numerics import Finding


@click.group("doctor")
def command() -> None:
    """Find out whether this machine does what it should."""


@command.command("numerics")
@click.option(
    "--model", metavar="DIR|HUB ID", help="Examine this model; default: a tiny random one."
)
@click.pass_context
def numerics(ctx: click.Context, model: str | None) -> None:
    """Train a small model in ways that must agree, and say by how much they do.

    Takes under a minute with the tiny model. Ends with exit code 1 where a bound is broken.
    """
    import warnings

    from hpcscale.pipeline.numerics import examine

    warnings.simplefilter("ignore")  # of libraries about each other
    broken = 0
    for finding in examine(model):
        click.echo(_line(finding))
        if finding.passed is False:
            broken += 1
            click.echo(f"      {finding.remedy}")
    click.echo(f"{broken} of the checks failed" if broken else "all is well")
    ctx.exit(1 if broken else 0)


def _line(finding: Finding) -> str:
    word = {True: "ok", False: "FAIL", None: "skip"}[finding.passed]
    bound = f"  (bound: {finding.bound})" if finding.bound else ""
    return f"{word:<5} {finding.name:<18} {finding.measured}{bound}"
