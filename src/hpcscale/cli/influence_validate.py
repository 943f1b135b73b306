"""``hpcscale influence validate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DEFAULT = ("dot", "cosine", "adam", "adam-cosine")


@click.group("validate")
def command() -> None:
    """Check influence scores against experiments with a known answer.

    RUN is the run directory of a sweep whose data and base model exist. Each experiment makes its
    own small proxy run in --out, and writes tables (text and CSV) and a figure there.
    """


def _count(name: str, text: str, least: int = 1) -> Callable[[_Command], _Command]:
    return click.option(name, type=click.IntRange(least), help=text)


def _tokens(name: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(name, metavar="TOKENS", help=text)


def _shared(function: _Command) -> _Command:
    for option in reversed(
        [
            click.argument("run", type=click.Path(path_type=Path)),
            click.option("--out", required=True, type=click.Path(path_type=Path)),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="NAME",
                help="dot, cosine, adam, adam-cosine, adam:1e-6, ..@4096 for sketches; "
                "repeatable. Default: the first four, exact.",
            ),
            _count("--checkpoints", "Checkpoints of the proxy run."),
            _count("--queries", "Documents of the query set."),
            click.option(
                "--lr", type=click.FloatRange(0, min_open=True), help="Default: the sweep's."
            ),
            _tokens("--global-batch", "Tokens a training step. Default: the sweep's."),
            click.option(
                "--longest",
                type=click.IntRange(8),
                default=512,
                show_default=True,
                help="Tokens; longer documents are left out.",
            ),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        ]
    ):
        function = option(function)
    return function


_DOMAIN = click.option("--domain", help="Take only queries of this domain.")
_PROXY = _tokens("--proxy-tokens", "Budget of the proxy run.")


@command.command("noise")
@_shared
@_PROXY
@_count(
    "--documents", "Clean documents; a spoilt copy of each is added for each kind of damage.", 2
)
@click.option(
    "--other-language",
    "language",
    type=click.Path(path_type=Path),
    help="Text of another language. Default: the machine's own translations.",
)
def noise(**given: Any) -> None:
    """Add spoilt documents: are they ranked below the clean ones?"""
    _run("noise", given)


@command.command("domains")
@_shared
@_PROXY
@_count("--documents", "Documents of the pool to rank.", 10)
def domains(**given: Any) -> None:
    """Queries of one domain: do its documents rank on top?"""
    _run("domains", given)


@command.command("lds")
@_shared
@_DOMAIN
@_count("--candidates", "Documents to attribute to.", 4)
@_count("--subsets", "Trainings, each on half of the candidates.", 3)
@_count("--repeats", "Trainings of each subset, in different orders.")
@_count("--epochs", "Passes over a subset.")
def lds(**given: Any) -> None:
    """Do sums of influence forecast the losses of retrained models?"""
    _run("lds", given)


@command.command("counterfactual")
@_shared
@_DOMAIN
@_PROXY
@_count("--candidates", "Documents to choose from.", 4)
@_tokens("--budget", "What each arm trains on.")
@_count("--seeds", "Repetitions of everything.", 2)
def counterfactual(**given: Any) -> None:
    """Train on top, random and bottom of equal budget: which lowers the query loss most?"""
    _run("counterfactual", given)


def _run(experiment: Any, given: dict[str, Any]) -> None:
    from hpcscale.tools.validate import Request, validate

    run, out = given.pop("run"), given.pop("out")
    for name in ("proxy_tokens", "budget", "global_batch"):
        if given.get(name) is not None:
            given[name] = _count_of(name, given[name])
    request = Request(
        experiment,
        given.pop("variants") or _DEFAULT,
        domain=given.pop("domain", None),
        lr=given.pop("lr"),
        global_batch=given.pop("global_batch"),
        longest=given.pop("longest"),
        options=given,
    )
    text = validate(run, out, request, lambda line: click.echo(line, err=True), _progress)
    click.echo(text)
    click.echo(f"\nwritten: {out / experiment}.txt, .png and the tables as CSV")


def _count_of(name: str, value: str) -> int:
    from hpcscale.errors import ConfigError
    from hpcscale.units import parse_count

    try:
        return parse_count(value)
    except ValueError as error:
        raise ConfigError(f"--{name.replace('_', '-')}: {error}") from None


def _progress(what: str, done: int, total: int) -> None:
    click.echo(f"{what}: {done} of {total}", err=True)
