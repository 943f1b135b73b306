"""Sums over 124 million float32 terms, where a plain one would lose digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.influence.examples import DocumentExamples
from hpcscale.influence.gradients import (
    direct_scores,
    example_features,
    full_scores,
    inner_products,
    mean_gradients,
)
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.model.build import build_model

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
VOCABULARY, LENGTH, N = 50257, 128, 3
EOT = VOCABULARY - 1
#: Two groups of queries.
GROUPS = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    shape = Shape(layers=12, width=768, heads=12, seed=0)
    return build_model(shape, VOCABULARY, LENGTH, EOT).eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder: Path = tmp_path_factory.mktemp("large")
    writer, rng = StoreWriter(folder, VOCABULARY), np.random.default_rng(0)
    for index, length in enumerate((64, 96, 128)):
        writer.append(index, "a", 4 * length, rng.integers(0, VOCABULARY, length))
    writer.finish("pool", EOT, {})
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def examples(store: TokenStore) -> DocumentExamples:
    return DocumentExamples(store, np.arange(N), LENGTH)


@pytest.fixture(scope="module")
def exact(model: torch.nn.Module, store: TokenStore) -> np.ndarray:  # type: ignore[type-arg]
    """Inner products of the documents' gradients by autograd in float64, [N, N]."""
    model.double()
    rows = []
    for i in range(N):
        targets = torch.from_numpy(np.asarray(store.tokens(i)).astype(np.int64))
        inputs = torch.cat([torch.tensor([EOT]), targets[:-1]])
        model.zero_grad(set_to_none=True)
        functional.cross_entropy(model(input_ids=inputs[None]).logits[0], targets).backward()
        rows.append([p.grad for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    model.float()
    return np.array(
        [[sum(float((x * y).sum()) for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    )


def worst(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.abs(found / expected - 1).max())


def test_direct_scores(model, examples, exact) -> None:  # type: ignore[no-untyped-def]
    directions = mean_gradients(model, examples, GROUPS, device=CPU)
    found = direct_scores(model, examples, directions, device=CPU)
    assert worst(found, exact @ GROUPS.T) < 1e-5


def test_unprojected_gradients(model, examples, exact) -> None:  # type: ignore[no-untyped-def]
    whole = Sketch(model, Projection(None, None), CPU)
    rows = example_features(model, examples, np.arange(N), whole)
    assert worst(inner_products(rows, rows), exact) < 1e-5


def test_norms(model, examples, exact) -> None:  # type: ignore[no-untyped-def]
    directions = mean_gradients(model, examples, GROUPS, device=CPU)
    scores, squares = full_scores(model, examples, directions, device=CPU)
    assert worst(scores, exact @ GROUPS.T) < 1e-5
    assert worst(squares, np.diag(exact)) < 1e-5
