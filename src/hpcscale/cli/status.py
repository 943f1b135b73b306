"""``hpcscale status``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("status")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--follow", is_flag=True, help="Refresh until nothing runs any more.")
@click.option("--all", "every", is_flag=True, help="List every task, not only what is not done.")
def command(run: Path, follow: bool, every: bool) -> None:
    """Show the tasks of RUN, a run directory."""
    from hpcscale.tools.status import follow_run, status_text

    if follow:
        follow_run(run)
    click.echo(status_text(run, every))
