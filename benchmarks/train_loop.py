"""Our torch loop beside the shortest honest plain loop, alternating; prints ratios of medians.

python benchmarks/train_loop.py [--steps 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.model.build import build_model
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import adamw
from hpcscale.train.loop import train

LENGTH, ROWS, VOCABULARY = 128, 16, 2048
SHAPE = Shape(layers=4, width=128, heads=4)


def make_store(folder: Path, tokens: int) -> TokenStore:
    rng = np.random.default_rng(0)
    folder.mkdir()
    writer = StoreWriter(folder, VOCABULARY)
    for index in range(tokens // 400 + 1):
        writer.append(index, "a", 1000, rng.integers(0, VOCABULARY, 400))
    writer.finish("pool", VOCABULARY - 1, {})
    return TokenStore.open(folder)


def plain(store: TokenStore, config: TrainConfig, steps: int) -> float:
    """What one writes first: slices of the tokens, forward, backward, clip, step."""
    model = build_model(SHAPE, VOCABULARY, LENGTH, VOCABULARY - 1).train()
    optimizer = adamw(model, config, fused=True)
    tokens = torch.from_numpy(np.asarray(store.all_tokens).astype(np.int64))
    started = time.perf_counter()
    for step in range(steps):
        at = step * ROWS * LENGTH
        rows = tokens[at : at + ROWS * LENGTH + 1]
        inputs, targets = rows[:-1].view(ROWS, LENGTH), rows[1:].view(ROWS, LENGTH)
        logits = model(input_ids=inputs, use_cache=False).logits
        functional.cross_entropy(logits.view(-1, VOCABULARY), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def ours(store: TokenStore, config: TrainConfig, steps: int, engine: str, out: Path) -> float:
    model = build_model(SHAPE, VOCABULARY, LENGTH, VOCABULARY - 1)
    stream = PackedStream(
        store, np.arange(store.n_documents), steps * ROWS * LENGTH, LENGTH, "concat"
    )
    result = train(
        model, stream, config, engine=engine, precision="fp32", seed=0, ranks=Ranks(), out=out,
        key="benchmark",
    )  # fmt: skip
    return result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    config = TrainConfig(global_batch=ROWS * LENGTH, micro_batch=ROWS, zero=1)
    times: dict[str, list[float]] = {"plain": [], "torch": [], "deepspeed": []}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", (asked.steps + 1) * ROWS * LENGTH)
        for round_ in range(asked.rounds + 1):
            for name, seconds in times.items():
                out = Path(folder) / f"{name}-{round_}"
                out.mkdir()
                spent = (
                    plain(store, config, asked.steps)
                    if name == "plain"
                    else ours(store, config, asked.steps, name, out)
                )
                if round_:  # the first round warms up
                    seconds.append(spent)
    floor = statistics.median(times["plain"])
    rate = asked.steps * ROWS * LENGTH / floor
    print(f"plain torch loop: {rate:.0f} tokens/s on {torch.get_num_threads()} threads")
    for name in ("torch", "deepspeed"):
        ratios = [a / b for a, b in zip(times["plain"], times[name], strict=True)]
        print(
            f"engine {name}: {statistics.median(ratios):.3f}x of the plain loop's speed "
            f"[{min(ratios):.3f} to {max(ratios):.3f}]"
        )


if __name__ == "__main__":
    main()
