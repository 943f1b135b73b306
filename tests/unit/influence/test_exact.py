"""Influence against full per-document gradients by autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError
from hpcscale.influence.examples import DocumentExamples, RowExamples, document_scores
from hpcscale.influence.factors import parts_of
from hpcscale.influence.gradients import (
    direct_scores,
    example_features,
    full_scores,
    inner_products,
    mean_gradients,
)
from hpcscale.influence.sketch import Projection, Sketch
from models import EOT, exact_gradients, gpt2, llama, relative
from training import LENGTH, make_store

CPU = torch.device("cpu")
N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("influence") / "store"
    make_store(folder, documents=N)
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def examples(store: TokenStore) -> DocumentExamples:
    return DocumentExamples(store, np.arange(N), LENGTH)


def groups(seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """Two weighted groups of queries."""
    weights = np.random.default_rng(seed).uniform(0.1, 1, (2, N))
    weights[1, ::2] = 0
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("seed", [0, 1])
def test_direct_scores_are_exact(store, examples, make, seed: int) -> None:  # type: ignore[no-untyped-def]
    model, weights = make(seed), groups(seed)
    reference = exact_gradients(model, store)
    directions = mean_gradients(model, examples, weights, device=CPU)
    scores = direct_scores(model, examples, directions, device=CPU)
    assert relative(scores, reference @ (weights @ reference).T) < 1e-5


@pytest.mark.parametrize("make", [gpt2, llama])
def test_unprojected_gradients_are_exact(store, examples, make) -> None:  # type: ignore[no-untyped-def]
    model = make(2)
    reference = exact_gradients(model, store)
    whole = Sketch(model, Projection(None, None), CPU)
    assert whole.dimension == sum(p.numel() for p in model.parameters())
    features = example_features(model, examples, np.arange(N), whole)
    assert relative(inner_products(features, features), reference @ reference.T) < 1e-5


@pytest.mark.parametrize("make", [gpt2, llama])
def test_adam_preconditioned_scores_are_exact(store, examples, make) -> None:  # type: ignore[no-untyped-def]
    model, weights = make(3), groups(3)
    generator = torch.Generator().manual_seed(9)
    scale = {
        name: 1 / (torch.rand(p.shape, generator=generator) * 1e-2).sqrt().add(1e-8)
        for name, p in model.named_parameters()
    }
    plain, scaled = exact_gradients(model, store), exact_gradients(model, store, scale)
    expected = scaled @ (weights @ plain).T
    directions = mean_gradients(model, examples, weights, device=CPU)
    folded = [{name: d[name] * scale[name] for name in d} for d in directions]
    assert relative(direct_scores(model, examples, folded, device=CPU), expected) < 1e-5
    scores, squares = full_scores(model, examples, directions, device=CPU, scale=scale)
    assert relative(scores, expected) < 1e-5
    assert relative(squares, (scaled**2).sum(1)) < 1e-5


def test_a_sketch_of_factors_is_the_sketch_of_the_full_gradient(store, examples) -> None:  # type: ignore[no-untyped-def]
    """Two-sided and summed into columns, straight from tokens or from the gradient itself."""
    model = gpt2(4)
    sketch = Sketch(model, Projection(rank=8, dimension=128, seed=5), CPU)
    features = example_features(model, examples, np.arange(N), sketch)
    one = np.zeros((1, N))
    one[0, 7] = 1
    (gradient,) = mean_gradients(model, examples, one, device=CPU)
    assert relative(features[7].numpy(), sketch.of(gradient).numpy()) < 1e-5
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    formed = example_features(model, examples, np.arange(N), sketch, scale=ones)
    assert relative(formed.numpy(), features.numpy()) < 1e-5


def test_sketched_inner_products_are_unbiased(store, examples) -> None:  # type: ignore[no-untyped-def]
    """The mean over projection seeds comes to the exact value as 1 / sqrt(seeds)."""
    model = gpt2(6)
    reference = exact_gradients(model, store)
    exact = reference @ reference.T
    found = []
    for seed in range(64):
        sketch = Sketch(model, Projection(rank=6, dimension=64, seed=seed), CPU)
        features = example_features(model, examples, np.arange(N), sketch).double().numpy()
        found.append(features @ features.T)
    stack = np.stack(found)
    error = (stack.mean(0) - exact) / (stack.std(0, ddof=1) / 8)
    assert abs(error.mean()) < 0.5
    assert np.abs(error).max() < 5


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_batches_do_not_matter(examples, batch_tokens: int) -> None:  # type: ignore[no-untyped-def]
    model = gpt2(0)
    directions = mean_gradients(model, examples, groups(0), device=CPU)
    one, other = (
        direct_scores(model, examples, directions, device=CPU, batch_tokens=size)
        for size in (200, batch_tokens)
    )
    assert relative(other, one) < 1e-5
    sketch = Sketch(model, Projection(8, 64), CPU)
    some = np.array([3, 30, 11])
    alone = example_features(model, examples, some, sketch, batch_tokens=batch_tokens)
    among = example_features(model, examples, np.arange(N), sketch)
    assert relative(alone.numpy(), among[some].numpy()) < 1e-5


@pytest.mark.parametrize("packing", ["concat", "isolate"])
def test_packed_rows_are_examples_too(store, packing: str) -> None:  # type: ignore[no-untyped-def]
    model = gpt2(1)
    stream = PackedStream(store, np.arange(N), None, LENGTH, packing)  # type: ignore[arg-type]
    examples = RowExamples(stream)
    whole = Sketch(model, Projection(None, None), CPU)
    found = example_features(model, examples, np.arange(examples.count), whole, batch_tokens=64)
    expected = []
    model.double()
    for row in range(stream.n_rows):
        batch = stream.rows(row, row + 1)
        model.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        owners = batch.segments[0]
        pieces = [owners == o for o in np.unique(owners[owners >= 0])]
        if packing == "concat":
            pieces = [owners >= 0]
        for piece in pieces:
            logits = model(input_ids=torch.tensor(batch.inputs[0][piece][None])).logits[0]
            targets = torch.tensor(batch.targets[0][piece])
            loss = loss + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        (loss / int(batch.tokens[0])).backward()
        expected.append(torch.cat([p.grad.flatten() for p in model.parameters()]).numpy().copy())
    model.float()
    assert relative(found.numpy(), np.stack(expected)) < 1e-5


def test_scores_of_rows_go_to_documents_by_tokens(store) -> None:  # type: ignore[no-untyped-def]
    stream = PackedStream(store, np.arange(N), None, LENGTH, "concat")
    rows = np.random.default_rng(0).normal(size=stream.n_rows)
    starts = np.concatenate([[0], np.cumsum(store.lengths)])
    expected = [
        np.mean([rows[token // LENGTH] for token in range(starts[i], starts[i + 1])])
        for i in range(N)
    ]
    np.testing.assert_allclose(document_scores(stream, rows, N), expected)


def test_a_step_on_the_best_document_lowers_the_query_loss_as_forecast(store, examples) -> None:  # type: ignore[no-untyped-def]
    """The sign: positive influence, lower loss; to first order by eta times the score."""
    model = gpt2(0).double()
    queries = np.zeros((1, N))
    queries[0, [3, 11]] = 0.5
    directions = mean_gradients(model, examples, queries, device=CPU)
    scores = direct_scores(model, examples, directions, device=CPU)[:, 0]
    one = np.zeros((1, N))
    one[0, scores.argmax()] = 1
    (step,) = mean_gradients(model, examples, one, device=CPU)
    before = _loss(model, store, [3, 11])
    eta = 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= eta * step[name]
    assert before - _loss(model, store, [3, 11]) == pytest.approx(eta * scores.max(), rel=1e-3)


def _loss(model: torch.nn.Module, store: TokenStore, positions: list[int]) -> float:
    total = 0.0
    for position in positions:
        document = np.asarray(store.tokens(position)).astype(np.int64)
        context = np.concatenate([[EOT], document[:-1]])
        for begin in range(0, len(document), LENGTH):
            piece = slice(begin, begin + LENGTH)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor(context[piece][None])).logits[0]
            targets = torch.tensor(document[piece])
            nll = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            total += float(nll) / len(document)
    return total / len(positions)


def test_an_unknown_module_is_an_error_and_not_left_out() -> None:
    model = gpt2(0)
    assert parts_of(model)

    class Mystery(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    model.transformer.mystery = Mystery()  # type: ignore[union-attr]
    with pytest.raises(
        CheckpointError, match=r"does not know the weight of transformer\.mystery, a Mystery"
    ):
        parts_of(model)


def test_a_parameter_outside_any_known_place_is_an_error() -> None:
    model = gpt2(0)
    model.transformer.h[0].ln_1.extra = torch.nn.Parameter(torch.ones(3))  # type: ignore[union-attr, index]
    with pytest.raises(CheckpointError, match=r"the extra of transformer.h.0.ln_1"):
        parts_of(model)
