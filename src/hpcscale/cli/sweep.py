"""``hpcscale sweep``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--executor",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="slurm, local (worker processes), debug (in this process), or a back end of another "
    "package; auto: Slurm where it answers, else local.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="train.lr=3e-4")
@click.option("--site", metavar="NAME|FILE", help="Site profile; default: the file's, or generic.")
@click.option("--dry-run", is_flag=True, help="Print plan, cost and sbatch scripts; start nothing.")
@click.option(
    "--follow/--detach",
    default=None,
    help="Stay and watch, or return at once. Default: follow here, detach on Slurm.",
)
def command(
    file: Path,
    executor: str,
    overrides: tuple[str, ...],
    site: str | None,
    dry_run: bool,
    follow: bool | None,
) -> None:
    """Run the sweep of FILE; called again, go on with what is missing."""
    from hpcscale.preview.checks import check
    from hpcscale.preview.text import dry_run_text, outcome_text, plan_text
    from hpcscale.sweep import execute, open_sweep

    sweep = open_sweep(file, overrides, executor, site, dry_run)
    plan = sweep.plan()
    notes = check(sweep, plan, dry_run)
    click.echo(plan_text(sweep, plan))
    for note in notes:
        click.echo(f"before it can run: {note}")
    if plan.start:
        for line in sweep.backend.notes(sweep.profile):
            click.echo(f"hpcscale: {line}", err=True)
    if dry_run:
        from hpcscale.preview.power import power_lines

        click.echo("\n".join(power_lines(sweep)))
        click.echo(dry_run_text(sweep, plan))
        return
    if follow is False and sweep.backend.here and plan.start:
        _detach(file, sweep.run_dir)
        return
    if not plan.start and not (follow and plan.alive):
        click.echo(outcome_text(sweep))
        return
    here = sweep.backend.here
    complete = execute(sweep, plan, click.echo, follow=bool(follow) and not here)
    click.echo(outcome_text(sweep, submitted=not here and not follow))
    if not complete:
        sys.exit(1)


def _detach(file: Path, run_dir: Path) -> None:
    """The same call in the background, in a session of its own."""
    import subprocess

    from hpcscale.rundir.layout import LOGS

    log = run_dir / LOGS / "sweep.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [word for word in sys.argv[1:] if word != "--detach"]
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpcscale.cli.main", *arguments, "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    click.echo(
        f"sweep of {file} continues as process {process.pid}; log: {log}\n"
        f"watch: hpcscale status {run_dir} --follow\nstop: kill {process.pid}"
    )
