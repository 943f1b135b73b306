"""The command line: parse, call one function, print. Each command is imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from hpcscale import __version__
from hpcscale.errors import ConfigError, HpcscaleError, Preempted

#: Name, module (and attribute, unless `command`) and help of each command; the help is here
#: so that `--help` imports none.
_COMMANDS = {
    "sweep": ("hpcscale.cli.sweep", "Run a sweep file, or continue it."),
    "status": ("hpcscale.cli.status", "Show what of a run directory is done, running or missing."),
    "eval": ("hpcscale.cli.evaluate", "Evaluate a checkpoint or model on a token store."),
    "influence": ("hpcscale.cli.influence", "Measure, inspect and check influence by hand."),
    "data": ("hpcscale.cli.data", "Prepare and inspect token stores."),
    "checkpoint": ("hpcscale.cli.checkpoint", "Inspect, convert and export training state."),
    "report": ("hpcscale.cli.analysis:report", "Write all of the analysis and report.html."),
    "fit": ("hpcscale.cli.analysis:fit", "Fit scaling laws to a run directory or a CSV."),
    "compare": ("hpcscale.cli.analysis:compare", "Show how selection methods differ."),
    "plot": ("hpcscale.cli.analysis:plot", "Draw the figures of a paper."),
    "plan-power": ("hpcscale.cli.plan_power", "Show what a grid tells apart, and which suffices."),
    "doctor": ("hpcscale.cli.doctor", "Check that this machine computes what it should."),
    "site": ("hpcscale.cli.site", "Show the site profile in use."),
    "completion": ("hpcscale.cli.completion", "Print shell completion for bash, zsh or fish."),
    "task": ("hpcscale.cli.task", "Run one task of a run directory by hand."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute or "command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hpcscale")
def cli() -> None:
    """Does the way we choose data change the scaling law of continued pretraining?

    One YAML file describes a sweep; `hpcscale sweep FILE` scores, selects, trains, evaluates and
    fits it, on this machine or on its Slurm cluster.
    """


def main() -> None:
    """Entry point: our errors are one message and an exit code, never a traceback."""
    _speak_utf8()
    try:
        _check_arguments()
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("hpcscale: interrupted", err=True)
        sys.exit(130)
    except (HpcscaleError, Preempted) as error:
        click.echo(f"hpcscale: {error}", err=True)
        sys.exit(error.exit_code)


def _speak_utf8() -> None:
    """Start Python again in UTF-8 mode where the locale has another encoding.

    Such a Python misreads arguments, and does not find the files that a sweep names, where these
    have other letters than ASCII. Worker processes and jobs inherit the mode.
    """
    os.environ["PYTHONUTF8"] = "1"
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _check_arguments() -> None:
    for word in sys.argv[1:]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{os.fsencode(word)!r} on the command line is not UTF-8, as names of files "
                "must be; rename it, for example with `convmv -f latin1 -t utf8 --notest`"
            ) from None


if __name__ == "__main__":
    main()
