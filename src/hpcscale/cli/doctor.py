"""``hpcscale doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpcscale.data.packing import Packing
    from hpcscale.doctor.finding import Finding


@click.group("doctor")
def command() -> None:
    """Check that this machine and a model compute what they should."""


@command.command("numerics")
@click.option(
    "--model", metavar="DIR|HUB ID", help="Examine this model; default: a tiny random one."
)
@click.pass_context
def numerics(ctx: click.Context, model: str | None) -> None:
    """Train a small model in ways that must agree, and show how closely they agree.

    Takes under a minute with the tiny model. Ends with exit code 1 where a bound is exceeded.
    """
    from hpcscale.doctor.numerics import examine

    ctx.exit(_print(examine(model)))


@command.command("model")
@click.argument("source", metavar="DIR|HUB_ID")
@click.option("--revision", metavar="COMMIT|BRANCH", help="Of a hub id.")
@click.option(
    "--sequence-length",
    type=click.IntRange(2),
    help="Default: what the model's config allows, 1024 at most.",
)
@click.option(
    "--packing",
    type=click.Choice(["concat", "isolate"]),
    help="With isolate, a model that cannot keep documents apart fails.",
)
@click.option(
    "--reading",
    type=click.Choice(["file", "transformers"]),
    help="Which token ids count, as `tokenizer.reading` of a sweep file.",
)
@click.pass_context
def model(
    ctx: click.Context,
    source: str,
    revision: str | None,
    sequence_length: int | None,
    packing: Packing | None,
    reading: str | None,
) -> None:
    """Load a model and its tokenizer and try them on a few tokens, before a sweep does.

    Ends with exit code 1 where a sweep of this model would be wrong or would stop.
    """
    from hpcscale.doctor.model import examine_source

    ctx.exit(_print(examine_source(source, revision, sequence_length, packing, reading)))


def _print(findings: Iterable[Finding]) -> int:
    """Print one line per finding as it is made; return the exit code."""
    import warnings

    warnings.simplefilter("ignore")  # of libraries about each other
    failed = 0
    for finding in findings:
        click.echo(finding.line())
        if finding.passed is False:
            click.echo(f"      {finding.remedy}")
        failed += finding.failed
    click.echo(f"{failed} of the checks failed" if failed else "all checks passed")
    return 1 if failed else 0
