"""``hpcscale influence``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from hpcscale.cli.influence_validate import command as validate

_PATH = click.Path(path_type=Path)


@click.group("influence")
def command() -> None:
    """Measure TracIn influence stage by stage, look at scores, and check them.

    A sweep with a `tracin` selection does all of it by itself.
    """


def _size(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str | None:
    if value in ("none", "auto"):
        return None if value == "none" else value
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is no size; write 1 or more, or none")
    return int(value)


def _shard(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or int(match[1]) >= int(match[2]):
        raise click.BadParameter(f"{value!r} is no shard; write 0/4 for the first of four")
    return int(match[1]), int(match[2])


def _weights(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    weights = {}
    for value in values:
        name, equals, number = value.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{value!r}: write it as DOMAIN=2.5") from None
        if not equals or weights[name] < 0:
            raise click.BadParameter(f"{value!r}: write it as DOMAIN=2.5, 0 or more")
    return weights


@command.command("dump")
@click.argument("model")
@click.option("--data", required=True, type=_PATH, help="A token store, or a task that holds one.")
@click.option("--out", required=True, type=_PATH)
@click.option("--shard", default="0/1", callback=_shard, show_default=True, help="This one of n.")
@click.option("--eta", type=float, help="The learning rate it stands for; default: its own, or 1.")
@click.option("--adam", is_flag=True, help="Precondition by Adam's moments of a snapshot.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True),
    default=1e-5,
    show_default=True,
    help="Of Adam's metric.",
)
@click.option("--unit", type=click.Choice(["document", "sequence"]), default="document")
@click.option("--sequence-length", type=click.IntRange(8), default=1024, show_default=True)
@click.option("--packing", type=click.Choice(["concat", "isolate"]), default="concat")
@click.option("--dimension", default="4096", callback=_size, help="Numbers a document, or none.")
@click.option("--rank", default="auto", callback=_size, help="Columns a side of a matrix, or none.")
@click.option("--projection-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dtype", type=click.Choice(["fp16", "bf16", "fp32"]), default="fp16")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--batch-tokens", type=click.IntRange(1), default=4096, show_default=True)
def dump(
    model: str,
    data: Path,
    out: Path,
    dimension: int | None,
    rank: Any,
    projection_seed: int,
    **options: Any,
) -> None:
    """Write the projected gradients of every document of a token store at MODEL.

    MODEL is a Hugging Face directory or hub id, or a snapshot of a proxy run. A call that was
    killed goes on where it stopped. RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or srun's
    variables, make this one rank of several.
    """
    from hpcscale.influence.requests import Measure
    from hpcscale.influence.sketch import Projection
    from hpcscale.tools.influence import HandDump, dump

    names = ("unit", "sequence_length", "packing", "precision", "dtype")
    projection = Projection(rank, dimension, projection_seed)
    measure = Measure(projection=projection, **{name: options.pop(name) for name in names})
    asked = HandDump(model, data, measure, **options)
    with click.progressbar(length=1000, label="gradients", file=sys.stderr) as bar:
        made = dump(asked, out, lambda done, total: bar.update(1000 * done // total - bar.pos))
    first, last = made["units"]
    click.echo(f"{out}: {last - first} {made['unit']}s, eta {made['eta']:.6g}")


@command.command("score")
@click.argument("pool", type=_PATH)
@click.option("--queries", type=_PATH, help="A dump of the query set at the same checkpoint.")
@click.option("--out", required=True, type=_PATH)
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "domain", "max", "self"]),
    default="mean",
    show_default=True,
)
@click.option(
    "--normalise",
    type=click.Choice(["cosine", "none"]),
    help="Default: cosine; none for self.",
)
@click.option("--query-weight", multiple=True, metavar="DOMAIN=W", callback=_weights)
def score(
    pool: Path,
    queries: Path | None,
    out: Path,
    aggregate: Any,
    normalise: str | None,
    query_weight: dict[str, float],
) -> None:
    """Multiply a dump of the pool, POOL, with one of the queries: one score block."""
    from hpcscale.influence.requests import Aggregation
    from hpcscale.tools.influence import score

    default = "none" if aggregate == "self" else "cosine"
    cosine = (normalise or default) == "cosine"
    made = score(pool, queries, out, Aggregation(aggregate, cosine, query_weight))
    first, last = made["pool"]["units"]
    click.echo(f"{out}: {last - first} examples")


@command.command("merge")
@click.argument("blocks", nargs=-1, required=True, type=_PATH)
@click.option("--out", required=True, type=_PATH, help="A scores.parquet.")
@click.option("--data", type=_PATH, help="The pool's store; default: where it was dumped from.")
@click.option("--tokenizer", type=_PATH, help="For texts in --dataset.")
@click.option("--json", "json_list", type=_PATH, help="Also write a JSON list.")
@click.option("--dataset", type=_PATH, help="Also write a Hugging Face dataset with texts.")
def merge(
    blocks: tuple[Path, ...],
    out: Path,
    data: Path | None,
    tokenizer: Path | None,
    json_list: Path | None,
    dataset: Path | None,
) -> None:
    """Sum BLOCKS over checkpoints, shards and queries: one row a document."""
    from hpcscale.tools.influence import merge, pool_of

    count = merge(blocks, data, out)
    click.echo(f"{out}: {count} documents")
    _export(out, data or pool_of(blocks[0]), tokenizer, dataset, json_list)


@command.command("inspect")
@click.argument("scores", type=_PATH)
@click.option("--data", type=_PATH, help="The pool's store; default: the run directory's.")
@click.option("--tokenizer", type=_PATH, help="Default: the run directory's.")
@click.option("--top", type=click.IntRange(0), default=3, show_default=True)
@click.option("--figure", type=_PATH, help="Draw the histogram here (.png, .pdf or .svg).")
@click.option("--json", "json_list", type=_PATH, help="Write the scores as a JSON list.")
@click.option("--dataset", type=_PATH, help="Write them as a Hugging Face dataset with texts.")
def inspect(
    scores: Path,
    data: Path | None,
    tokenizer: Path | None,
    top: int,
    figure: Path | None,
    json_list: Path | None,
    dataset: Path | None,
) -> None:
    """Show the documents of highest and lowest score in SCORES, a scores.parquet or a run."""
    from hpcscale.influence.inspect import describe, draw_histogram
    from hpcscale.tools.scores import find_scores, open_scores

    found = find_scores(scores)
    writes = figure or json_list or dataset
    if writes and len(found) > 1:
        listed = "\n".join(f"  {path}" for path in found)
        raise click.UsageError(f"{scores} holds several tables; give one:\n{listed}")
    for path in found:
        scored = open_scores(path, data, tokenizer)
        click.echo(describe(scored, top))
        if figure:
            draw_histogram(scored, figure)
            click.echo(f"\nfigure: {figure}")
    _export(found[0], data, tokenizer, dataset, json_list)


def _export(
    scores: Path,
    data: Path | None,
    tokenizer: Path | None,
    dataset: Path | None,
    json_list: Path | None,
) -> None:
    if not (dataset or json_list):
        return
    from hpcscale.influence.inspect import export
    from hpcscale.tools.scores import open_scores

    export(open_scores(scores, data, tokenizer), dataset, json_list)
    for path in filter(None, (json_list, dataset)):
        click.echo(f"written: {path}")


command.add_command(validate)
