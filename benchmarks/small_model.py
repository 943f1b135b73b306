"""A small GPT-2 trained for a minute on the standard library's texts: what benchmarks measure on.

Random weights and random tokens would do for timings; gradients of a model that has learnt
something are what a projection has to keep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.documents import text_id
from hpcscale.data.order import document_order
from hpcscale.data.packing import PackedStream
from hpcscale.data.report import ReadReport
from hpcscale.data.stdlib import read_stdlib
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import train_tokenizer, use_threads
from hpcscale.data.writer import StoreWriter
from hpcscale.influence.factors import Direction
from hpcscale.model.build import build_model
from hpcscale.model.forward import token_nll
from hpcscale.train.engine import adamw

VOCABULARY, LENGTH, ROWS = 2048, 128, 16
SHAPE = Shape(layers=4, width=128, heads=4)


@dataclass
class Trained:
    """The model, its Adam preconditioner P (1 / (sqrt(v) + eps)), and documents it never saw."""

    model: nn.Module
    adam: Direction
    store: TokenStore
    held_out: np.ndarray  # type: ignore[type-arg]


def stdlib_store(folder: Path, vocabulary: int = VOCABULARY) -> TokenStore:
    """All documents of the standard library, in tokens of a BPE trained on them."""
    use_threads(2)
    documents = list({text_id(d.text): d for d in read_stdlib(ReadReport())}.items())
    tokenizer = train_tokenizer((d.text for _, d in documents), vocabulary, folder / "tokenizer")
    (folder / "store").mkdir()
    writer = StoreWriter(folder / "store", tokenizer.vocab_size)
    rows = tokenizer.encode_batch([d.text for _, d in documents])
    for (identity, document), row in zip(documents, rows, strict=True):
        tokens = np.append(np.array(row, dtype=np.int64), tokenizer.eot_id)
        writer.append(identity, document.domain, len(document.text.encode()), tokens)
    writer.finish("pool", tokenizer.eot_id, {})
    return TokenStore.open(folder / "store")


def trained(
    folder: Path, steps: int, held_out: int, shape: Shape = SHAPE, seed: int = 0
) -> Trained:
    """Train for ``steps`` of 2,048 tokens with AdamW; the documents of the last ``held_out``
    places of the seeded order, among those of 24 to 512 tokens, are kept apart."""
    store = stdlib_store(folder)
    order = document_order(store.ids, seed)
    fitting = (store.lengths[order] >= 24) & (store.lengths[order] <= 512)
    apart = order[fitting][-held_out:]
    seen = order[~np.isin(order, apart)]
    stream = PackedStream(store, seen, steps * ROWS * LENGTH, LENGTH, "concat")
    model = build_model(shape, store.vocab_size, LENGTH, store.eot_id).train()
    config = TrainConfig(lr=2e-3)
    optimizer = adamw(model, config, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / 20) * _cosine(step / steps)
        batch = stream.rows(step * ROWS, (step + 1) * ROWS)
        nll = token_nll(model, torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
        nll.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    last = float(nll.detach().mean())
    print(f"trained {steps} steps of {ROWS * LENGTH} tokens, last loss {last:.3f}")
    return Trained(model.eval(), _preconditioner(model, optimizer, config, steps), store, apart)


def _cosine(done: float) -> float:
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _preconditioner(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> Direction:
    """1 / (sqrt(v / (1 - beta2^t)) + eps), 0 where the run never moved a parameter."""
    found = {}
    for name, parameter in model.named_parameters():
        v = optimizer.state[parameter]["exp_avg_sq"] / (1 - config.beta2**steps)
        found[name] = torch.where(v > 0, 1 / (v.sqrt() + config.eps), torch.zeros_like(v))
    return found
