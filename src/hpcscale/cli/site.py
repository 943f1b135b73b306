"""``hpcscale site``."""

from __future__ import annotations

import click


@click.group("site")
def command() -> None:
    """Show the site profile that a sweep or script uses."""


@command.command("show")
@click.option("--site", metavar="NAME|FILE")
def show(site: str | None) -> None:
    """Print the profile with every default."""
    import yaml

    from hpcscale.config.profile import load_profile

    click.echo(
        yaml.safe_dump(load_profile(site).model_dump(mode="json"), sort_keys=False), nl=False
    )


@command.command("shell")
@click.option("--site", metavar="NAME|FILE")
def shell(site: str | None) -> None:
    """Print the profile as shell assignments, for scripts such as slurm/eval.sh."""
    from hpcscale.cluster.profile_shell import profile_shell
    from hpcscale.config.profile import load_profile

    click.echo(profile_shell(load_profile(site)))
