"""Real tokens a second: our packed rows beside a document a row, padded to 512 and cut off there.

python benchmarks/padding.py [--rounds 3] [--threads 1] [--clock wall|cpu] [--data FOLDER]

The baseline is the equivalent of Hugging Face's Trainer with padded documents: the same model,
fused AdamW and clipping, an attention mask, and targets of -100 on the padding. Both see batches of
as many slots; real tokens are slots without padding, over all documents. ``--data``: a folder with
books/train.jsonl.gz and gpt2-tokenizer/tokenizer.json, which give the lengths of real documents;
the tokens are random, which no timing notices.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
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
from hpcscale.train.options import Hooks, RunSetup

LENGTH, ROWS, VOCABULARY = 512, 4, 2048
SHAPE = Shape(layers=4, width=128, heads=4)
CONFIG = TrainConfig(global_batch=ROWS * LENGTH, micro_batch=ROWS, sinks=[])
Lengths = npt.NDArray[np.int64]


def c4_like(count: int) -> Lengths:
    """Lognormal with median 250 and mean 480 tokens."""
    rng = np.random.default_rng(0)
    sigma = np.sqrt(2 * np.log(480 / 250))
    return np.maximum(2, rng.lognormal(np.log(250), sigma, count)).astype(np.int64)


def books(folder: Path) -> Lengths:
    tokenizer = Tokenizer.from_file(str(folder / "gpt2-tokenizer" / "tokenizer.json"))
    with gzip.open(folder / "books" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return np.array([len(found.ids) + 1 for found in tokenizer.encode_batch(texts)])


def make_store(folder: Path, lengths: Lengths) -> TokenStore:
    rng = np.random.default_rng(1)
    folder.mkdir()
    writer = StoreWriter(folder, VOCABULARY)
    for index, length in enumerate(lengths):
        writer.append(index, "a", 1000, rng.integers(0, VOCABULARY, length))
    writer.finish("pool", VOCABULARY - 1, {})
    return TokenStore.open(folder)


def padded(store: TokenStore, steps: int, clock: Callable[[], float]) -> float:
    """Slots a second, padding included."""
    model = build_model(SHAPE, VOCABULARY, LENGTH, VOCABULARY - 1).train()
    optimizer = adamw(model, CONFIG)
    times = []
    for step in range(steps):
        began = clock()
        inputs = torch.full((ROWS, LENGTH), VOCABULARY - 1)
        mask = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
        for row in range(ROWS):
            document = np.asarray(store.tokens(step * ROWS + row)[:LENGTH]).astype(np.int64)
            inputs[row, : len(document)] = torch.from_numpy(document)
            mask[row, : len(document)] = 1
        targets = inputs.masked_fill(mask == 0, -100)[:, 1:]
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(clock() - began)
    return _rate(times)


def packed(store: TokenStore, steps: int, out: Path, clock: Callable[[], float]) -> float:
    out.mkdir()
    stream = PackedStream(
        store, np.arange(store.n_documents), steps * ROWS * LENGTH, LENGTH, "concat"
    )
    ticks = [clock()]
    model = build_model(SHAPE, VOCABULARY, LENGTH, VOCABULARY - 1)
    setup = RunSetup("torch", "fp32", 0, Ranks(), out, "benchmark")
    hooks = Hooks(progress=lambda line: ticks.append(clock()))
    train(model, stream, CONFIG, setup, hooks)
    return _rate([b - a for a, b in pairwise(ticks)])


def _rate(times: list[float]) -> float:
    """Slots over the median step; the first two steps allocate."""
    return ROWS * LENGTH / statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    torch.set_num_threads(asked.threads)
    found = {"C4-like": c4_like(2000)} | ({"books": books(asked.data)} if asked.data else {})
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {asked.threads} thread(s)")
    for name, lengths in found.items():
        kept = np.minimum(lengths, LENGTH)
        waste, cut = LENGTH * len(kept) / kept.sum(), 1 - kept.sum() / lengths.sum()
        ratios = []
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(Path(folder) / "store", lengths)
            for round_ in range(asked.rounds):
                out = Path(folder) / f"out-{round_}"
                theirs = padded(store, asked.steps, clock)
                ratios.append(waste * packed(store, asked.steps, out, clock) / theirs)
        print(
            f"{name}: {statistics.median(ratios):.2f}x real tokens/s [{min(ratios):.2f} to "
            f"{max(ratios):.2f}]; padding to {LENGTH} wastes {waste:.2f}x and cuts off {cut:.0%}"
        )


if __name__ == "__main__":
    main()
