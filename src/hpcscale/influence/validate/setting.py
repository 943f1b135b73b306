"""The setting of an experiment: a base model, documents, and how models are trained on them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpcscale.config.train import TrainConfig
from hpcscale.data.order import document_order
from hpcscale.data.packing import PackedStream, Packing
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import Tokenizer
from hpcscale.errors import DataError
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.examples import BATCH_TOKENS, DocumentExamples
from hpcscale.influence.snapshots import Snapshot, Snapshots, read_snapshots
from hpcscale.influence.variants import Checkpoint, Scores, Variant, variant_scores
from hpcscale.model.build import load_model
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.loop import train
from hpcscale.train.options import Hooks, RunSetup
from hpcscale.train.watch import Watcher, without_skips
from hpcscale.types import Floats, Ints, Progress


@dataclass(frozen=True)
class Setting:
    """``longest``: tokens; longer documents are left out, so that one does not outweigh all."""

    model: Path
    pool: TokenStore
    queries: TokenStore
    tokenizer: Tokenizer
    sequence_length: int
    packing: Packing
    train: TrainConfig
    longest: int = 512
    ranks: Ranks = field(default_factory=Ranks)

    def load(self) -> nn.Module:
        """A new copy of the base model."""
        return load_model(self.model).to(self.ranks.device)

    def units(self, store: TokenStore, positions: Ints) -> DocumentExamples:
        return DocumentExamples(store, positions, self.sequence_length)

    def shuffled(self, store: TokenStore, seed: int, domain: str | None = None) -> Ints:
        """Positions of the documents that are not too long, in a seeded order.

        Raises DataError for a domain that the store does not have.
        """
        order = document_order(store.ids, seed)
        fits = store.lengths <= self.longest
        if domain is not None:
            if domain not in store.domain_names:
                raise DataError(
                    f"{store.path} has no domain `{domain}`; it has: "
                    f"{', '.join(store.domain_names)}"
                )
            fits = fits & (np.asarray(store.domains) == store.domain_names.index(domain))
        return order[fits[order]]

    def take(self, store: TokenStore, count: int, seed: int, domain: str | None = None) -> Ints:
        """``count`` documents of ``shuffled``. Raises DataError where there are fewer."""
        order = self.shuffled(store, seed, domain)
        if len(order) < count:
            raise DataError(
                f"{count} documents{f' of {domain}' if domain else ''} were asked for, but "
                f"{store.path} has {len(order)} of at most {self.longest} tokens; ask for fewer, "
                "or let longer ones take part with --longest"
            )
        return order[:count]

    def stream(
        self, positions: Ints, seed: int, epochs: int = 1, budget: int | None = None
    ) -> PackedStream:
        """Pool documents in a seeded order that differs by epoch, up to ``budget`` tokens."""
        ids = self.pool.ids[positions]
        order = [positions[document_order(ids, seed, epoch)] for epoch in range(epochs)]
        return PackedStream(
            self.pool, np.concatenate(order), budget, self.sequence_length, self.packing
        )

    def fit(self, stream: PackedStream, seed: int, out: Path) -> nn.Module:
        """The base model trained on ``stream``; its metrics go to ``out``, which is emptied."""
        return self._fit(stream, seed, out, None)

    def proxy_run(self, stream: PackedStream, count: int, seed: int, out: Path) -> list[Snapshot]:
        """The ``count`` snapshots of a training on ``stream``, in ``out``, which is emptied."""
        intervals = CheckpointSchedule.of(self.train, stream.n_tokens, count)
        self._fit(stream, seed, out, intervals)
        return read_snapshots(out / "snapshots")

    def _fit(
        self, stream: PackedStream, seed: int, out: Path, intervals: CheckpointSchedule | None
    ) -> nn.Module:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        model, config, watchers = self.load(), self.train, list[Watcher]()
        if intervals is not None:
            config = without_skips(config)
            watchers = [Snapshots(out / "snapshots", model, config, intervals, self.ranks)]
        setup = RunSetup("torch", "fp32", seed, self.ranks, out, f"validation-{seed}")
        train(model, stream, config, setup, Hooks(watchers=watchers))
        return model

    def scores(
        self,
        snapshots: Sequence[Snapshot],
        pool: DocumentExamples,
        queries: DocumentExamples,
        variants: Sequence[Variant],
        progress: Progress | None = None,
    ) -> Scores:
        """Influence over the snapshots of a proxy run."""
        checkpoints = loaded(snapshots, variants, self.ranks.device, progress)
        return variant_scores(checkpoints, pool, queries, variants, device=self.ranks.device)


def loaded(
    snapshots: Sequence[Snapshot],
    variants: Sequence[Variant],
    device: torch.device,
    progress: Progress | None = None,
) -> Iterator[Checkpoint]:
    """The checkpoints of a proxy run one after the other, with the metrics that variants need.

    ``progress(done, total)`` counts the checkpoints that the caller has finished.
    """
    metrics = {v.metric: v.epsilon for v in variants if v.metric != "none"}
    for done, snapshot in enumerate(snapshots, 1):
        roots = {
            metric: replace(snapshot, eps=epsilon or snapshot.eps).preconditioner(0.5, device)
            for metric, epsilon in metrics.items()
        }
        yield Checkpoint(load_model(snapshot.model).to(device), snapshot.eta, roots)
        if progress:
            progress(done, len(snapshots))


@torch.no_grad()
def unit_losses(model: nn.Module, units: DocumentExamples, device: torch.device) -> Floats:
    """The mean token loss of each unit, float64 [count], nats."""
    model.eval()
    losses = np.zeros(units.count)
    for batch in units.batches(np.arange(units.count), BATCH_TOKENS):
        inputs, targets = (torch.from_numpy(a).to(device) for a in (batch.inputs, batch.targets))
        nll = token_nll(model, inputs, targets).double().cpu().numpy()
        np.add.at(losses, batch.example, (nll * batch.share).sum(1))
    return losses


def up_to_budget(store: TokenStore, order: Ints, tokens: int) -> Ints:
    """The first documents of ``order`` that together hold ``tokens`` or more, uncut.

    Raises DataError where all of them hold fewer.
    """
    held = np.cumsum(store.lengths[order])
    if not len(held) or held[-1] < tokens:
        raise DataError(
            f"{tokens} tokens were asked for, but the {len(order)} documents of {store.path} that "
            f"may take part hold {int(held[-1]) if len(held) else 0}; ask for fewer, or let longer "
            "ones take part with --longest"
        )
    return order[: int(np.searchsorted(held, tokens)) + 1]


def by_variant(variants: Sequence[Variant], scores: Scores) -> dict[str, Floats]:
    """The score matrices by the variants' names, in the order asked for."""
    return {variant.name: scores.by_variant[variant] for variant in variants}
