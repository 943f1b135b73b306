"""``hpcscale checkpoint``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.group("checkpoint")
def command() -> None:
    """Inspect, convert and export the training state of a run.

    CHECKPOINT is a tag (RUN/cells/CELL/checkpoints/step-...), or a cell, for its newest tag.
    """


@command.command("inspect")
@click.argument("checkpoint", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="The whole manifest.")
def inspect(checkpoint: Path, as_json: bool) -> None:
    """Show the step of a checkpoint, and whether it is whole; every checksum is compared."""
    import json

    from hpcscale.train.universal import find_tag
    from hpcscale.train.universal import inspect as look
    from hpcscale.units import format_bytes, format_count

    tag = find_tag(checkpoint)
    record = look(tag)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        stage = f", ZeRO {record['zero']}" if record["zero"] is not None else ""
        click.echo(
            f"{tag}\n"
            f"step {record['step']}, {format_count(record['tokens'])} tokens, "
            f"seed {record['seed']}, task {record['key']}\n"
            f"written by {record['world_size']} rank(s) of the {record['engine']} engine{stage}, "
            f"{record['precision']}\n"
            f"{len(record['parameters'])} parameters in {len(record['files'])} files, "
            f"{format_bytes(record['bytes'])}: {record['problem'] or 'whole'}"
        )
    if record["problem"]:
        sys.exit(1)


@command.command("convert")
@click.argument("checkpoint", type=_FOLDER)
@click.option("--out", required=True, type=_FOLDER, help="A tag that does not exist yet.")
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="Files.")
def convert(checkpoint: Path, out: Path, ranks: int) -> None:
    """Write a checkpoint as this number of ranks would, by default in one file.

    No run needs it: every engine, ZeRO stage and number of ranks continues from any checkpoint.
    """
    from hpcscale.train.universal import convert as write
    from hpcscale.train.universal import find_tag

    write(find_tag(checkpoint), out, ranks)
    click.echo(str(out))


@command.command("export")
@click.argument("checkpoint", type=_FOLDER)
@click.option("--out", required=True, type=_FOLDER, help="A folder that does not exist yet.")
def export(checkpoint: Path, out: Path) -> None:
    """Write the model of a checkpoint in Hugging Face format."""
    from hpcscale.train.universal import export as write
    from hpcscale.train.universal import find_tag

    write(find_tag(checkpoint), out)
    click.echo(str(out))
