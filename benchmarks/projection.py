"""How faithful projected influence is: Spearman with exact scores per query, over projection seeds.

python benchmarks/projection.py [--seeds 5] [--steps 300] [--documents 160] [--queries 32]
    [--ranks auto 8 16 32 64 128 none] [--dimensions 1024 4096 16384 none] [--quick]

A model of 4 layers x 128 learns from the standard library for a minute; documents and queries are
ones that it never saw. Scores are dot products (then cosines) of sketched gradients of all
parameters, plain and with Adam's P^1/2 on both sides, and each is held to the same scores of whole
gradients. The last column is the time of such a dump against a plain forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from influence_parts import plain_pass
from scipy.stats import rankdata
from small_model import LENGTH, Trained, trained

from hpcscale.influence.examples import DocumentExamples
from hpcscale.influence.gradients import example_features
from hpcscale.influence.sketch import Projection, Sketch

RANKS = ["auto", "8", "16", "32", "64", "128", "none"]
CPU = torch.device("cpu")


def spearman(found: Any, exact: Any) -> float:
    """The mean over queries (columns) of the rank correlation over documents."""
    a, b = (rankdata(x, axis=0) for x in (found, exact))
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))).mean())


def scores(rows: torch.Tensor, n: int) -> tuple[Any, Any]:
    """Dot products and cosines of the first n rows with the others, float64."""
    step, total = 1 << 14, torch.zeros(n, len(rows) - n, dtype=torch.float64)
    for first in range(0, rows.shape[1], step):
        part = rows[:, first : first + step]
        total += part[:n] @ part[n:].T
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return total.numpy(), (total / norms[:n, None] / norms[n:]).numpy()


def size(word: str) -> int | str | None:
    return None if word == "none" else word if word == "auto" else int(word)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--documents", type=int, default=160)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--ranks", nargs="*", default=["auto", "8", "16", "32", "64", "128", "none"]
    )
    parser.add_argument("--dimensions", nargs="*", default=["1024", "4096", "16384", "none"])
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.quick:
        asked.seeds, asked.steps, asked.documents, asked.queries = 2, 20, 24, 8
    with tempfile.TemporaryDirectory() as folder:
        made = trained(Path(folder), asked.steps, asked.documents + asked.queries)
        measure(made, asked)


def measure(made: Trained, asked: argparse.Namespace) -> None:
    units = DocumentExamples(made.store, made.held_out, LENGTH)
    roots = {name: p.sqrt() for name, p in made.adam.items()}
    whole = Sketch(made.model, Projection(None, None), CPU)
    print(
        f"{asked.documents} documents, {asked.queries} queries, {asked.seeds} seeds, "
        f"{whole.dimension} parameters\n"
    )
    for metric, scale in (("plain", None), ("Adam-aware", roots)):
        exact = example_features(made.model, units, np.arange(units.count), whole, scale=scale)
        expected = scores(exact, asked.documents)
        print(f"**{metric}**\n\n| rank | dimension | dot, mean [range] | cosine | cost |")
        print("|---|---|---|---|---|")
        for rank in map(size, asked.ranks):
            for dimension in map(size, asked.dimensions):
                if rank is None and dimension is None:
                    continue
                found = []
                for seed in range(asked.seeds):
                    sketch = Sketch(made.model, Projection(rank, dimension, seed), CPU)  # type: ignore[arg-type]
                    rows = torch.stack([sketch.of(gradient_of(row, whole)) for row in exact])
                    pair = zip(scores(rows, asked.documents), expected, strict=True)
                    found.append([spearman(a, b) for a, b in pair])
                dot, cosine = np.array(found).T
                print(
                    f"| {rank or 'none'} | {dimension or f'none ({sketch.columns})'} | "
                    f"{dot.mean():.3f} [{dot.min():.3f} to {dot.max():.3f}] | "
                    f"{cosine.mean():.3f} | {cost(made.model, units, sketch, scale):.2f}x |",
                    flush=True,
                )
        print()


def gradient_of(row: torch.Tensor, whole: Sketch) -> dict[str, torch.Tensor]:
    """A row of whole gradients, by parameter. Its sketch is that of its tokens: a test says so."""
    return {name: row[b.place].view(b.shape) for name, b in whole.blocks.items()}


def cost(model: Any, units: DocumentExamples, sketch: Sketch, scale: Any) -> float:
    """Processor time of a dump of 64 documents against a plain forward and backward of them."""
    some = DocumentExamples(units.store, units.positions[:64], units.length)
    ratios = []
    for _ in range(3):
        began = time.process_time()
        plain_pass(model, some, 1024)
        middle = time.process_time()
        example_features(model, some, np.arange(some.count), sketch, scale=scale, batch_tokens=1024)
        ratios.append((time.process_time() - middle) / (middle - began))
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
