"""What ``hpcscale doctor numerics`` examines: a small model, a few documents, and short runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream, Packing
from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.model.build import build_model, load_model
from hpcscale.train.distributed import Ranks
from hpcscale.train.loop import train
from hpcscale.train.options import Hooks, RunSetup

LENGTH, ROWS, STEPS = 32, 4, 4
_VOCABULARY = 512
#: Modules whose documentation is the English text on which a trained model is measured.
_TEXTS = (
    "argparse contextlib dataclasses email functools gzip json logging mailbox pathlib random "
    "statistics tarfile zipfile"
).split()


@dataclass(frozen=True)
class Curve:
    """The loss and gradient norm of each step, and the trained model."""

    steps: list[tuple[float, float]]
    model: nn.Module
    weights: dict[str, Tensor] | None

    def off(self, other: Curve) -> float:
        """The largest relative difference of a loss or norm."""
        pairs = zip(np.ravel(self.steps), np.ravel(other.steps), strict=True)
        return float(max(abs(a - b) / abs(b) for a, b in pairs))


@dataclass
class ReferenceRun:
    """The model that is examined: a tiny random one, or that of ``source``."""

    source: str | None
    folder: Path
    ranks: Ranks

    def model(self) -> nn.Module:
        """A new model on the device, the same each time."""
        if self.source is None:
            shape = Shape(layers=2, width=64, heads=4)
            built = build_model(shape, self.vocabulary, LENGTH, self.vocabulary - 1)
        else:
            built = load_model(self.source)
        return built.to(self.ranks.device)

    @cached_property
    def _documents(self) -> tuple[TokenStore, int, bool]:
        return write_documents(self.source, self.folder / "documents")

    @property
    def vocabulary(self) -> int:
        return self._documents[1]

    @property
    def reads_text(self) -> bool:
        return self._documents[2]

    def stream(self, packing: Packing = "concat") -> PackedStream:
        store = self._documents[0]
        return PackedStream(
            store, np.arange(store.n_documents), ROWS * STEPS * LENGTH, LENGTH, packing
        )

    def train(self, name: str, engine: str = "torch", **given: Any) -> Curve:
        """A few steps with the training loop itself."""
        values = {
            "micro_batch": ROWS,
            "lr": 1e-3,
            "warmup": 0,
            "schedule": "constant",
            "clip": 0.5,
            "zero": 0,
            **given,
        }
        config = TrainConfig.model_validate({"global_batch": ROWS * LENGTH, **values})
        model, lines = self.model(), list[dict[str, Any]]()
        out = self.folder / name
        out.mkdir()
        setup = RunSetup(engine, "fp32", 0, self.ranks, out, name)
        result = train(model, self.stream(), config, setup, Hooks(progress=lines.append))
        return Curve([(x["loss"], x["grad_norm"]) for x in lines], model, result.weights)


def write_documents(source: str | None, folder: Path) -> tuple[TokenStore, int, bool]:
    """A store of documents, the vocabulary's size, and whether they are text.

    Text where ``source`` has a tokenizer, else token ids drawn evenly.
    """
    from hpcscale.data.writer import StoreWriter

    vocabulary, texts = _VOCABULARY, None
    if source is not None:
        config: Any = load_model(source).config
        vocabulary, texts = int(config.vocab_size), _texts(source, folder / "tokenizer")
    drawn = np.random.default_rng(0)
    eot = vocabulary - 1
    documents: list[Any] = [
        np.append(drawn.integers(0, vocabulary, size), eot)
        for size in drawn.integers(3, 40, size=60)
    ]
    if texts:
        documents, eot = texts
    store = folder / "store"
    store.mkdir(parents=True)
    writer = StoreWriter(store, vocabulary)
    for index, tokens in enumerate(documents):
        writer.append(index, "doctor", len(tokens), tokens)
    writer.finish("pool", eot, {})
    return TokenStore.open(store), vocabulary, texts is not None


def _texts(source: str, folder: Path) -> tuple[list[Any], int] | None:
    """Paragraphs of the standard library's documentation as token ids, and end-of-text."""
    import importlib
    import inspect

    from hpcscale.data.tokenizer import fetch_tokenizer

    try:
        tokenizer = fetch_tokenizer(source, None, folder)
    except DataError:
        return None
    modules = [importlib.import_module(name) for name in _TEXTS]
    pages = [inspect.getdoc(part) or "" for m in modules for part in (m, *vars(m).values())]
    paragraphs = dict.fromkeys(p.strip() for page in pages for p in page.split("\n\n"))
    long = [p for p in paragraphs if len(p) > 40][:400]
    encoded = [np.append(ids, tokenizer.eot_id) for ids in tokenizer.encode_batch(long)]
    return encoded, tokenizer.eot_id
