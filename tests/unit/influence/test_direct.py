"""Influence against full per-document gradients by autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError
from hpcscale.influence.contract import contractions
from hpcscale.influence.direct import direct_scores, query_gradient
from hpcscale.model.build import build_model
from training import LENGTH, VOCABULARY, make_store

EOT = VOCABULARY - 1
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("influence") / "store"
    make_store(folder, documents=40)
    return TokenStore.open(folder)


def make_model(seed: int, context: int = LENGTH) -> torch.nn.Module:
    """GPT-2 with LayerNorm, biases away from zero, tied embeddings and square Conv1D."""
    model = build_model(Shape(layers=2, width=32, heads=2, seed=seed), VOCABULARY, context, EOT)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def exact_gradient(model: torch.nn.Module, store: TokenStore, position: int) -> np.ndarray:  # type: ignore[type-arg]
    """Of one document's mean token loss, all parameters in one vector, in float64."""
    exact = model.double()
    document = np.asarray(store.tokens(position)).astype(np.int64)
    context = np.concatenate([[EOT], document[:-1]])
    exact.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    begin = int(store.offsets[position])
    for piece in _pieces(begin, len(document)):
        logits = exact(input_ids=torch.tensor(context[piece][None])).logits[0]
        loss = loss + torch.nn.functional.cross_entropy(
            logits, torch.tensor(document[piece]), reduction="sum"
        )
    (loss / len(document)).backward()
    flat = torch.cat([p.grad.flatten() for p in exact.parameters()]).numpy().copy()
    model.float()
    return flat  # type: ignore[no-any-return]


def _pieces(begin: int, length: int) -> list[slice]:
    """Where the rows of the packed store cut a document."""
    edges = [0, *(e - begin for e in range((begin // LENGTH + 1) * LENGTH, begin + length, LENGTH))]
    return [slice(a, b) for a, b in zip(edges, [*edges[1:], length], strict=True)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_full_gradients_in_float64(store: TokenStore, seed: int) -> None:
    model = make_model(seed)
    documents = np.arange(40)
    reference = np.stack([exact_gradient(model, store, int(i)) for i in documents])
    weights = np.random.default_rng(seed).uniform(0.1, 1, 40)
    expected = reference @ (weights / weights.sum() @ reference)
    # Documents and queries packed alike, so that long ones are cut at the same places.
    direction = query_gradient(model, store, documents, sequence_length=LENGTH, micro_batch=8,
                               device=CPU, weights=weights)  # fmt: skip
    scores = direct_scores(model, store, documents, direction, sequence_length=LENGTH,
                           micro_batch=8, device=CPU)  # fmt: skip
    assert np.linalg.norm(scores - expected) / np.linalg.norm(expected) < 1e-5


@pytest.mark.parametrize("micro_batch", [1, 5, 64])
def test_batches_do_not_matter(store: TokenStore, micro_batch: int) -> None:
    model = make_model(0)
    documents = np.arange(40)
    direction = query_gradient(model, store, documents[:7], sequence_length=LENGTH, micro_batch=3,
                               device=CPU)  # fmt: skip
    one, other = (
        direct_scores(model, store, documents, direction, sequence_length=LENGTH,
                      micro_batch=size, device=CPU)
        for size in (2, micro_batch)
    )  # fmt: skip
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6 * abs(one).max())


def test_a_step_on_the_best_document_lowers_the_query_loss_as_forecast(store: TokenStore) -> None:
    """The sign: positive influence, lower loss; to first order by eta times the score."""
    model = make_model(0, context=64).double()
    queries = np.array([3, 11])
    direction = query_gradient(model, store, queries, sequence_length=64, micro_batch=8, device=CPU)
    scores = direct_scores(model, store, np.arange(40), direction, sequence_length=64,
                           micro_batch=8, device=CPU)  # fmt: skip
    best = int(scores.argmax())
    step = query_gradient(model, store, np.array([best]), sequence_length=64, micro_batch=8,
                          device=CPU)  # fmt: skip
    before = _loss(model, store, queries)
    eta = 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= eta * step[name]
    assert before - _loss(model, store, queries) == pytest.approx(eta * scores[best], rel=1e-3)


def _loss(model: torch.nn.Module, store: TokenStore, positions: np.ndarray) -> float:  # type: ignore[type-arg]
    total = 0.0
    for position in positions:
        document = np.asarray(store.tokens(int(position))).astype(np.int64)
        context = np.concatenate([[EOT], document[:-1]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(context[None])).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(document)))
    return total / len(positions)


def test_an_unknown_module_is_an_error_and_not_left_out() -> None:
    model = make_model(0)
    direction = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert contractions(model, direction)

    class Mystery(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    model.transformer.mystery = Mystery()  # type: ignore[union-attr]
    direction["transformer.mystery.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="does not know the module type Mystery"):
        contractions(model, direction)
