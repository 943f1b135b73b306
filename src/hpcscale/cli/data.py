"""``hpcscale data``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group("data")
def command() -> None:
    """Prepare and inspect token stores."""


@command.command("prepare")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
def prepare(file: Path, overrides: tuple[str, ...]) -> None:
    """Make the tokenizer, token stores and models of the sweep FILE on this machine.

    Use it on a node with a network where the compute nodes have none.
    """
    from hpcscale.sweep import open_sweep
    from hpcscale.sweep import prepare as run

    sweep = open_sweep(file, overrides, "local")
    if not run(sweep, click.echo):
        sys.exit(1)


@command.command("inspect")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compare every checksum.")
def inspect(store: Path, verify: bool) -> None:
    """Print the counts, domains and origin of a token store."""
    import json

    from hpcscale.data.store import TokenStore

    nested = store / "store"
    opened = TokenStore.open(nested if nested.is_dir() else store, verify=verify)
    click.echo(json.dumps(opened.manifest, indent=2))
