"""Losses against a naive computation, one token and one document at a time, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hpcscale.config.model import Shape
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError
from hpcscale.evaluate.loss import document_nll, evaluate
from hpcscale.model.build import build_model, load_model, save_model
from hpcscale.model.flops import matmul_parameters, model_flops_per_token
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.prefetch import batch_tensors
from training import LENGTH, VOCABULARY, make_store

RANKS = Ranks()
EOT = VOCABULARY - 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("evaluate") / "store"
    make_store(folder, documents=40)
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    shape = Shape(layers=2, width=32, heads=2, seed=3)
    model = build_model(shape, VOCABULARY, LENGTH, EOT)
    with torch.no_grad():  # away from the near-uniform start, so that mistakes show
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def naive(model: torch.nn.Module, context: np.ndarray, targets: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Nll of each target in float64, by softmax over the whole vocabulary."""
    exact = model.double()
    with torch.no_grad():
        logits = exact(input_ids=torch.tensor(context[None].astype(np.int64))).logits[0]
        logs = torch.log_softmax(logits, -1)
    nll = -logs[torch.arange(len(targets)), torch.tensor(targets.astype(np.int64))].numpy()
    model.float()
    return nll  # type: ignore[no-any-return]


def test_concat_scores_each_token_once_from_its_row(store: TokenStore, model) -> None:  # type: ignore[no-untyped-def]
    tokens = np.asarray(store.all_tokens)
    stream = np.concatenate([[EOT], tokens])
    expected = sum(
        naive(model, stream[i : i + LENGTH][: len(tokens) - i], tokens[i : i + LENGTH]).sum()
        for i in range(0, len(tokens), LENGTH)
    )
    result = evaluate(
        model, store, sequence_length=LENGTH, packing="concat", micro_batch=3, ranks=RANKS
    )
    assert result.tokens == len(tokens)
    assert result.loss == pytest.approx(expected / len(tokens), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    size = int(np.asarray(store.bytes).sum())
    assert result.bits_per_byte == pytest.approx(expected / math.log(2) / size, rel=1e-6)


def test_isolate_is_one_document_a_row(store: TokenStore, model) -> None:  # type: ignore[no-untyped-def]
    """Cut at the same places, each piece by itself: the same loss, and the same gradients."""
    stream = PackedStream(store, np.arange(40), None, LENGTH, "isolate")
    batch = stream.rows(0, stream.n_rows)
    assert (batch.segments[:, :1] != batch.segments).any(), "some rows hold several documents"
    model.zero_grad()
    packed = token_nll(model, *batch_tensors(batch, stream, RANKS))
    packed.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for row in range(stream.n_rows):
        for segment in np.unique(batch.segments[row]):
            mine = batch.segments[row] == segment
            if segment < 0:
                continue
            inputs = torch.tensor(batch.inputs[row][mine][None])
            targets = torch.tensor(batch.targets[row][mine][None])
            alone = token_nll(model, inputs, targets)
            alone.sum().backward()
            ours = packed[row][torch.tensor(mine)]
            torch.testing.assert_close(ours, alone[0], rtol=1e-5, atol=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert parameter.grad is not None
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(gradient / scale, parameter.grad / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("packing", ["concat", "isolate"])
@pytest.mark.parametrize("micro_batch", [1, 7, 64])
def test_the_micro_batch_does_not_matter(store, model, packing, micro_batch) -> None:  # type: ignore[no-untyped-def]
    one, many = (
        evaluate(
            model, store, sequence_length=LENGTH, packing=packing, micro_batch=size, ranks=RANKS
        )
        for size in (2, micro_batch)
    )
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.tokens == one.tokens


def test_domains_add_up(store: TokenStore, model) -> None:  # type: ignore[no-untyped-def]
    result = evaluate(
        model, store, sequence_length=LENGTH, packing="concat", micro_batch=8, ranks=RANKS
    )
    assert set(result.domains) == {"even", "odd"}
    parts = result.domains.values()
    assert sum(p["tokens"] for p in parts) == result.tokens
    assert sum(p["loss"] * p["tokens"] for p in parts) == pytest.approx(result.loss * result.tokens)


@pytest.mark.parametrize("batch_tokens", [16, 100, 4096])
def test_a_documents_score_does_not_depend_on_its_company(store, model, batch_tokens) -> None:  # type: ignore[no-untyped-def]
    positions = np.random.default_rng(0).permutation(40)
    nll, tokens = document_nll(
        model,
        store,
        positions,
        sequence_length=LENGTH,
        device=torch.device("cpu"),
        batch_tokens=batch_tokens,
    )
    assert (tokens == store.lengths[positions]).all()
    for place, position in enumerate(positions):
        document = np.asarray(store.tokens(int(position)))
        context = np.concatenate([[EOT], document[:-1]])
        expected = sum(
            naive(model, context[i : i + LENGTH], document[i : i + LENGTH]).sum()
            for i in range(0, len(document), LENGTH)
        )
        assert nll[place] == pytest.approx(expected, rel=1e-5)


def test_a_saved_model_comes_back_tied_and_equal(model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout))


def test_the_seed_alone_decides_a_new_model() -> None:
    shape = Shape(layers=1, width=16, heads=2, seed=5)
    torch.manual_seed(1)
    one = build_model(shape, 300, 16, 299)
    torch.manual_seed(2)
    two = build_model(shape, 300, 16, 299)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_no_model_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model: it has no config.json"):
        load_model(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hpcscale data prepare"):
        load_model("nobody/no-such-model")


def test_flops_are_those_that_are_counted_by_hand(model) -> None:  # type: ignore[no-untyped-def]
    blocks = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128)
    assert matmul_parameters(model) == blocks + 32 * VOCABULARY
    expected = 6 * (blocks + 32 * VOCABULARY) + 12 * 2 * 32 * LENGTH
    assert model_flops_per_token(model, LENGTH) == expected
