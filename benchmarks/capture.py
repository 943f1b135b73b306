"""A training step with its gradients captured beside the same step without; ratios of medians.

python benchmarks/capture.py [--steps 10] [--rounds 7] [--threads 2] [--rows 8 16]

Runs of a few steps take turns, and each is compared with the one of its round that captures
nothing. A step is everything: batches, forward, backward, clip, optimizer, and the rows on disk.
CPU time tells of a shared machine what the clock cannot; it wants --threads 1, since threads that
wait spin.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.influence.capture import Capture
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.sketch import Projection
from hpcscale.model.build import build_model
from hpcscale.train.checkpoint import Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.loop import train
from hpcscale.train.options import Hooks, RunSetup
from hpcscale.train.watch import Silent, Watcher

LENGTH, VOCABULARY = 128, 2048
SHAPE = Shape(layers=4, width=128, heads=4)
RANKS: tuple[int | Literal["auto"], ...] = (16, 32, 64, "auto")


class Clock(Silent):
    """When each step was over."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        self.times.append((time.perf_counter(), time.process_time()))


def make_store(folder: Path, tokens: int) -> TokenStore:
    """Documents of 20 to 99 tokens: about three pieces a row of 128."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    writer = StoreWriter(folder, VOCABULARY)
    index = 0
    while tokens > 0:
        size = int(rng.integers(20, 100))
        writer.append(index, "a", 1000, rng.integers(0, VOCABULARY, size))
        index, tokens = index + 1, tokens - size
    writer.finish("pool", VOCABULARY - 1, {})
    return TokenStore.open(folder)


def seconds_a_step(
    store: TokenStore, rows: int, steps: int, projection: Projection | None, out: Path
) -> tuple[float, float]:
    """Medians over the steps of one run, the first two apart: on the clock, and of CPU time."""
    model = build_model(SHAPE, VOCABULARY, LENGTH, VOCABULARY - 1)
    config = TrainConfig(global_batch=rows * LENGTH, micro_batch=rows)
    tokens, ranks = steps * rows * LENGTH, Ranks()
    stream = PackedStream(store, np.arange(store.n_documents), tokens, LENGTH, "concat")
    clock, watchers = Clock(), list[Watcher]()
    if projection:
        intervals = CheckpointSchedule.of(config, tokens, 1)
        watchers.append(Capture(out / "rows", stream, store.ids, projection, intervals, ranks))
    setup = RunSetup("torch", "fp32", 0, ranks, out, "benchmark")
    train(model, stream, config, setup, Hooks(watchers=[*watchers, clock]))
    wall, cpu = np.diff(np.array(clock.times[1:]), axis=0).T
    return statistics.median(wall), statistics.median(cpu)


def compare(store: TokenStore, rows: int, steps: int, rounds: int, folder: Path) -> None:
    """One line a projection: how much longer a step takes that is captured."""
    asked: list[Projection | None] = [None, *(Projection(rank, 4096) for rank in RANKS)]
    times: dict[Projection | None, list[tuple[float, float]]] = {one: [] for one in asked}
    for round_ in range(rounds + 1):
        for place, projection in enumerate(asked):
            out = folder / f"{rows}-{round_}-{place}"
            out.mkdir()
            found = seconds_a_step(store, rows, steps, projection, out)
            if round_:  # the first round warms up
                times[projection].append(found)
    plain = times[None]
    print(f"micro-batch {rows}: a step takes {1e3 * statistics.median(w for w, _ in plain):.1f} ms")
    for projection in asked[1:]:
        assert projection is not None
        ratios = np.array(times[projection]) / np.array(plain)
        wall, cpu = np.median(ratios, axis=0)
        print(
            f"  captured at rank {projection.rank}, dimension {projection.dimension}: {wall:.3f}x "
            f"[{ratios[:, 0].min():.3f} to {ratios[:, 0].max():.3f}], of CPU time {cpu:.3f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{asked.threads} threads, {SHAPE.layers} layers, {SHAPE.width} wide, rows of {LENGTH}")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", asked.steps * max(asked.rows) * LENGTH + 1)
        for rows in asked.rows:
            compare(store, rows, asked.steps, asked.rounds, Path(folder))


if __name__ == "__main__":
    main()
