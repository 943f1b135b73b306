"""``hpcscale fit``."""

from __future__ import annotations

from pathlib import Path

import click


def _columns(text: str | None) -> dict[str, str]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    for ours, equals, theirs in pairs:
        if not (ours.strip() and equals and theirs.strip()):
            raise click.BadParameter("write it as tokens=D,loss=L", param_hint="--columns")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


@click.command("fit")
@click.argument("source", metavar="RUN|CSV", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: RUN/analysis; must be given for a CSV."
)
@click.option("--law", "laws", multiple=True, metavar="NAME", help="rectified, power; repeatable.")
@click.option(
    "--holdout",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Also forecast the K largest budgets from the smaller ones.",
)
@click.option("--columns", metavar="OURS=THEIRS,...", help="Names in the CSV: tokens=D,loss=L.")
@click.option("--base-loss", type=float, help="Loss of the base model; default: a run's own.")
def command(
    source: Path, out: Path | None, laws: tuple[str, ...], holdout: int, columns: str | None,
    base_loss: float | None,
) -> None:  # fmt: skip
    """Fit scaling laws to a run directory or a CSV; write fits.csv and the figure."""
    import scalinglaws
    from hpcscale.errors import DataError

    table = source
    if source.is_dir():
        table, out = source / "analysis" / "results.csv", out or source / "analysis"
        if not table.exists():
            raise DataError(f"{table} is missing; `hpcscale sweep` writes it once a cell is done")
        base_loss = base_loss if base_loss is not None else _base_loss(table)
    if out is None:
        raise click.UsageError("--out DIR is needed for a CSV")
    try:
        summary = scalinglaws.fit(table, out, laws or None, holdout, _columns(columns), base_loss)
    except scalinglaws.AnalysisError as error:
        raise DataError(str(error)) from None
    for warning in summary["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    for line in summary["fits"]:
        values = ", ".join(f"{k} {v:.5g}" for k, v in line.get("parameters", {}).items())
        click.echo(f"{line['method']}, {line['law']}: {values or 'no fit'}; {line['message']}")
    if "holdout" in summary:
        missed = summary["holdout"]["mean_absolute_relative_error"]
        click.echo(f"hold-out: mean absolute relative error {missed:.3%}")
    click.echo(f"written: {out / 'fits.csv'}, {out / 'loss-vs-tokens.png'}")


def _base_loss(table: Path) -> float | None:
    import csv

    with open(table, encoding="utf-8") as handle:
        value = next(csv.DictReader(handle), {}).get("base_loss")
    return float(value) if value else None
