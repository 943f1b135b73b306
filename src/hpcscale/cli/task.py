"""``hpcscale task``: what executors do, by hand."""

from __future__ import annotations

import os
import sys

import click


@click.command("task", hidden=False)
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("tasks", nargs=-1, required=True)
def command(run: str, tasks: tuple[str, ...]) -> None:
    """Run TASKS (as `hpcscale status RUN --all` names them) of RUN in this process.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT make this one rank of several.
    """
    from hpcscale.worker.run import run_tasks_entry

    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    sys.exit(run_tasks_entry(run, list(tasks)))
