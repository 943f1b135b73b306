"""Documents of one row do not see each other, whichever way their attention is kept apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import BlockMask

from hpcscale.config.model import Shape
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.model import attention
from hpcscale.model.build import build_model, load_model, save_model
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.prefetch import batch_tensors
from models import EOT, gpt2, llama
from training import VOCABULARY, make_store

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")
LENGTH = 64
SHAPE = Shape(layers=2, width=32, heads=2, seed=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("attention") / "store"
    make_store(folder, documents=20)
    return TokenStore.open(folder)


@pytest.fixture
def flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as written, which stands for the compiled one of GPUs. Torch refuses its
    backward on CPUs, where only the kernel is missing."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)
    monkeypatch.setattr(attention, "flex_works", lambda device: True)


@pytest.fixture(params=["dense", "blocks"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    """With the mask of CPUs, and with that of GPUs."""
    built = build_model(SHAPE, VOCABULARY, LENGTH, EOT)
    if request.param == "blocks":
        request.getfixturevalue("flex")
        attention.install(built)
    return built


def nll_of_rows(model: torch.nn.Module, stream: PackedStream) -> torch.Tensor:
    """Of each token of the stream, in its order."""
    batch = stream.rows(0, stream.n_rows)
    nll = token_nll(model, *batch_tensors(batch, stream, Ranks()))
    return nll[torch.from_numpy(batch.segments >= 0)]


def test_an_isolated_document_is_one_that_has_a_row_of_its_own(
    model: torch.nn.Module, store: TokenStore
) -> None:
    documents = np.arange(store.n_documents)
    packed = PackedStream(store, documents, None, LENGTH, "isolate")
    together = nll_of_rows(model, packed)
    # A document that a row's end cuts goes on in the next row as another would.
    segments = packed.rows(0, packed.n_rows).segments
    pieces, start = [], 0
    for row in segments:
        for document in dict.fromkeys(row[row >= 0].tolist()):
            pieces.append((start, int((row == document).sum())))
            start += pieces[-1][1]
    assert len(pieces) > packed.n_rows, "rows hold several documents"
    tokens = torch.from_numpy(np.concatenate([np.asarray(store.tokens(int(d))) for d in documents]))
    before = torch.cat([torch.tensor([EOT]), tokens.long()])
    alone = torch.cat(
        [
            token_nll(model, before[None, at : at + n], tokens[None, at : at + n].long())[0]
            for at, n in pieces
        ]
    )
    assert torch.allclose(together, alone, atol=1e-5)
    concatenated = nll_of_rows(model, PackedStream(store, documents, None, LENGTH, "concat"))
    assert (together - concatenated).abs().max() > 1e-3, "what came before would have been seen"


@pytest.mark.parametrize("build", [gpt2, llama])
def test_blocks_give_the_losses_and_gradients_of_the_dense_mask(
    build: Callable[[int], torch.nn.Module], flex: None
) -> None:
    model = build(0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, VOCABULARY, (3, 16), generator=generator)
    segments = torch.tensor([[0] * 5 + [1] * 11, [1] * 16, [2] * 9 + [3] * 4 + [-1] * 3])
    positions = torch.arange(16).expand(3, -1)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        nll = token_nll(model, inputs, inputs.roll(-1, 1), segments, positions)
        gradients = torch.autograd.grad(nll.sum(), list(model.parameters()))
        return nll.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    dense = run()
    attention.install(model)
    assert isinstance(attention.segment_mask(model, segments), BlockMask)
    for mine, theirs in zip(run(), dense, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5, rtol=1e-4)


def test_without_segments_nothing_changes_and_nothing_is_saved(tmp_path: Path) -> None:
    model = gpt2(0)
    inputs = torch.randint(0, VOCABULARY, (2, 16))
    before = token_nll(model, inputs, inputs)
    attention.install(model)
    assert torch.equal(token_nll(model, inputs, inputs), before)
    save_model(model, tmp_path / "model")
    saved = (tmp_path / "model" / "config.json").read_text()
    assert "attn" not in "".join(k for k, v in json.loads(saved).items() if v == "hpcscale")
    assert torch.equal(token_nll(load_model(tmp_path / "model"), inputs, inputs), before)


def test_cpus_keep_the_dense_mask() -> None:
    assert not attention.flex_works(torch.device("cpu"))
    model = gpt2(0)
    attention.install(model)
    mask = attention.segment_mask(model, torch.zeros((1, 16), dtype=torch.int64))
    assert isinstance(mask, torch.Tensor)


def test_the_check_of_a_device_sees_a_difference(
    flex: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert attention.disagreement(cpu, torch.float32) < 1e-5
    right = attention.block_mask
    monkeypatch.setattr(attention, "block_mask", lambda segments: right(segments * 0))
    assert attention.disagreement(cpu, torch.float32) > 0.05
