"""``hpcscale eval``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("eval")
@click.argument("models", nargs=-1, required=True, metavar="CHECKPOINT_OR_MODEL...")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A token store, a run directory, or a sweep file whose eval set is prepared.",
)
@click.option("--sequence-length", type=click.IntRange(8), help="Default: the sweep's, or 1024.")
@click.option("--packing", type=click.Choice(["concat", "isolate"]), help="Default: the sweep's.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Default: the sweep's."
)
@click.option("--micro-batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the losses here.")
def command(
    models: tuple[str, ...],
    data: Path,
    sequence_length: int | None,
    packing: str | None,
    precision: str | None,
    micro_batch: int,
    out: Path | None,
) -> None:
    """Evaluate models: directories of a run, Hugging Face directories or hub ids.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or Slurm's own variables under srun, make this
    one rank of several; rank 0 prints.
    """
    from hpcscale.tools.evaluate import evaluate_models, resolve_eval_data

    asked = {"sequence_length": sequence_length, "packing": packing, "precision": precision}
    target = resolve_eval_data(data, {k: v for k, v in asked.items() if v is not None})
    results = evaluate_models(models, target, micro_batch)
    if results is None:
        return
    for name, result in results.items():
        click.echo(
            f"{name}: loss {result['loss']:.6f}, perplexity {result['perplexity']:.4f}, "
            f"{result['bits_per_byte']:.4f} bits per byte, {result['tokens']} tokens"
        )
        for domain, part in result["domains"].items():
            click.echo(f"  {domain}: loss {part['loss']:.6f}, {part['tokens']} tokens")
    if out:
        from hpcscale.atomic import write_text

        write_text(out, json.dumps(results, indent=2) + "\n")
