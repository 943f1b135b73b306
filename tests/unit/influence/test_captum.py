"""Influence over several checkpoints against captum's TracInCP, which is other people's code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
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
from training import VOCABULARY, make_store

captum = pytest.importorskip(
    "captum.influence", reason="captum is not installed; `pip install -e .[dev]` brings it"
)
pytestmark = pytest.mark.filterwarnings("ignore:Since `loss_fn` has no:UserWarning")
CPU = torch.device("cpu")
EOT = VOCABULARY - 1
#: No document of the store is longer, so captum's examples need no pieces.
LENGTH = 48
POOL, QUERIES = np.arange(0, 20), np.arange(20, 29)
#: Learning rates of the checkpoints, far enough apart that squared ones would show.
RATES = {"0": 0.5, "1": 2.0, "2": 0.03}


class Logits(nn.Module):
    """Token ids in, logits out, as captum wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids).logits
        return logits


def mean_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean token loss of each document, [B]."""
    nll = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view(targets.shape).mean(1)


class Documents(torch.utils.data.Dataset[Any]):
    """(inputs, targets) of each document, of its own length."""

    def __init__(self, store: TokenStore, positions: np.ndarray) -> None:  # type: ignore[type-arg]
        self.rows = [np.asarray(store.tokens(int(i))).astype(np.int64) for i in positions]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        targets = torch.from_numpy(self.rows[index])
        return torch.cat([torch.tensor([EOT]), targets[:-1]]), targets


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("captum") / "store"
    make_store(folder, documents=29)
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, nn.Module]:
    """LayerNorm, biases, tied embeddings and square Conv1D, all away from 0 and 1."""
    models = {}
    for name in RATES:
        model = build_model(
            Shape(layers=2, width=32, heads=2, seed=int(name)), VOCABULARY, LENGTH, EOT
        ).eval()
        generator = torch.Generator().manual_seed(int(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        models[name] = model
    return models


@pytest.fixture(scope="module")
def tracin(store: TokenStore, checkpoints: dict[str, nn.Module]) -> Any:
    def load(model: nn.Module, name: str) -> float:
        model.model.load_state_dict(checkpoints[name].state_dict())  # type: ignore[union-attr]
        return RATES[name]

    blank = build_model(Shape(layers=2, width=32, heads=2, seed=9), VOCABULARY, LENGTH, EOT).eval()
    return captum.TracInCP(
        Logits(blank), Documents(store, POOL), list(RATES), load, loss_fn=mean_nll, batch_size=1
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def expected(store: TokenStore, tracin: Any) -> np.ndarray:  # type: ignore[type-arg]
    """captum's scores, [pool, queries]."""
    queries = torch.utils.data.DataLoader(Documents(store, QUERIES), batch_size=1)
    scores: np.ndarray = tracin.influence(queries).numpy().T  # type: ignore[type-arg]
    return scores


def test_direct_scores_are_captums(store, checkpoints, expected) -> None:  # type: ignore[no-untyped-def]
    """Each query by itself, and the mean of all."""
    weights = np.concatenate([np.eye(len(QUERIES)), np.full((1, len(QUERIES)), 1 / len(QUERIES))])
    pool, queries = (DocumentExamples(store, which, LENGTH) for which in (POOL, QUERIES))
    found = np.zeros((len(POOL), len(weights)))
    for name, model in checkpoints.items():
        directions = mean_gradients(model, queries, weights, device=CPU)
        found += RATES[name] * direct_scores(model, pool, directions, device=CPU)
    assert relative(found[:, :-1], expected) < 1e-5
    assert relative(found[:, -1], expected.mean(1)) < 1e-5


def test_unprojected_features_score_as_captum_does(store, checkpoints, expected) -> None:  # type: ignore[no-untyped-def]
    found = np.zeros_like(expected, dtype=np.float64)
    for name, model in checkpoints.items():
        whole = Sketch(model, Projection(None, None), CPU)
        rows, columns = (
            example_features(
                model, DocumentExamples(store, which, LENGTH), np.arange(len(which)), whole
            )
            for which in (POOL, QUERIES)
        )
        found += RATES[name] * inner_products(rows, columns)
    assert relative(found, expected) < 1e-5


def test_self_influence_is_captums(store, checkpoints, tracin) -> None:  # type: ignore[no-untyped-def]
    pool = DocumentExamples(store, POOL, LENGTH)
    found = np.zeros(len(POOL))
    for name, model in checkpoints.items():
        directions = mean_gradients(model, pool, np.eye(1, len(POOL)), device=CPU)
        found += RATES[name] * full_scores(model, pool, directions, device=CPU)[1]
    assert relative(found, tracin.self_influence().numpy()) < 1e-5
