"""Every variant against full gradients by autograd in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
from hpcscale.errors import ConfigError
from hpcscale.influence.examples import DocumentExamples
from hpcscale.influence.variants import Checkpoint, Variant, variant_scores
from hpcscale.model.build import build_model
from training import LENGTH, VOCABULARY, make_store

CPU = torch.device("cpu")
POOL, QUERIES = np.arange(14), np.arange(14, 20)
ETAS = (0.3, 0.02)
NAMES = ("dot", "cosine", "adam", "adam-cosine", "adam:0.5", "adam:0.5-cosine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("variants") / "store"
    make_store(folder, documents=20)
    return TokenStore.open(folder)


def model_of(seed: int) -> torch.nn.Module:
    shape = Shape(layers=1, width=16, heads=2, seed=seed)
    model = build_model(shape, VOCABULARY, LENGTH, VOCABULARY - 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def checkpoints() -> list[Checkpoint]:
    found = []
    for seed, eta in enumerate(ETAS):
        model = model_of(seed)
        generator = torch.Generator().manual_seed(100 + seed)
        v = {n: torch.rand(p.shape, generator=generator) for n, p in model.named_parameters()}
        roots = {
            metric: {n: (x.sqrt() + epsilon).rsqrt() for n, x in v.items()}
            for metric, epsilon in (("adam", 1e-8), ("adam:0.5", 0.5))
        }
        found.append(Checkpoint(model, eta, roots))
    return found


@cache
def gradients(store: TokenStore, number: int, metric: str):  # type: ignore[no-untyped-def]
    """P^1/2 times the gradient of each document's mean token loss, float64 [20, parameters]."""
    checkpoint = checkpoints()[number]
    rows, exact = [], checkpoint.model.double()
    root = checkpoint.roots.get(metric)
    for position in range(20):
        tokens = np.asarray(store.tokens(position)).astype(np.int64)
        context = np.concatenate([[store.eot_id], tokens[:-1]])
        exact.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for begin in range(0, len(tokens), LENGTH):
            piece = slice(begin, begin + LENGTH)
            logits = exact(input_ids=torch.tensor(context[piece][None])).logits[0]
            targets = torch.tensor(tokens[piece])
            loss = loss + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        (loss / len(tokens)).backward()
        parts = [
            p.grad * (1.0 if root is None else root[n].double())
            for n, p in exact.named_parameters()
        ]
        rows.append(torch.cat([p.flatten() for p in parts]).numpy().copy())
    return np.stack(rows)


def expected(store: TokenStore, variant: Variant) -> np.ndarray:  # type: ignore[type-arg]
    total = np.zeros((len(POOL), len(QUERIES)))
    for number, eta in enumerate(ETAS):
        rows = gradients(store, number, variant.metric)
        if variant.cosine:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        total += eta * rows[POOL] @ rows[QUERIES].T
    return total


def both(store: TokenStore) -> tuple[DocumentExamples, DocumentExamples]:
    return DocumentExamples(store, POOL, LENGTH), DocumentExamples(store, QUERIES, LENGTH)


@pytest.mark.parametrize("held", [1 << 28, 1 << 16])
def test_exact_variants_are_exact_in_blocks_of_any_size(store: TokenStore, held: int) -> None:
    variants = [Variant.parse(name) for name in NAMES]
    pool, queries = both(store)
    found = variant_scores(checkpoints(), pool, queries, variants, device=CPU, held=held)
    for variant in variants:
        truth = expected(store, variant)
        error = np.linalg.norm(found.by_variant[variant] - truth) / np.linalg.norm(truth)
        assert error < 1e-5, variant.name
    norms = [np.linalg.norm(gradients(store, number, "none"), axis=1)[POOL] for number in (0, 1)]
    np.testing.assert_allclose(found.norms, np.average(norms, axis=0, weights=ETAS), rtol=1e-4)


def test_sketched_variants_follow_the_exact_ones(store: TokenStore) -> None:
    names = [f"{name}{at}" for name in NAMES[:4] for at in ("", "@128", "@2048")]
    variants = [Variant.parse(name) for name in names]
    pool, queries = both(store)
    found = variant_scores(checkpoints(), pool, queries, variants, device=CPU)
    by_name = {v.name: found.by_variant[v].ravel() for v in variants}
    for name in NAMES[:4]:
        small, large = (
            spearmanr(by_name[name], by_name[f"{name}@{d}"]).statistic for d in (128, 2048)
        )
        assert large > 0.9, name
        assert small < large < 1, name


@pytest.mark.parametrize("name", [*NAMES, "dot@4096", "adam:1e-6-cosine@16", "adam@1"])
def test_names_are_read_and_written_alike(name: str) -> None:
    assert Variant.parse(name).name == name


def test_what_a_name_says() -> None:
    assert Variant.parse("adam:1e-6-cosine@16") == Variant("adam:1e-6", True, 16)
    assert Variant.parse("adam:1e-6").epsilon == 1e-6
    assert Variant.parse("adam").epsilon is None


@pytest.mark.parametrize("name", ["adamw", "cosine-adam", "dot@0", "adam:", "dot:1e-6", ""])
def test_a_name_that_is_none_says_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no variant .* write dot, cosine, adam or adam-cosine"):
        Variant.parse(name)
