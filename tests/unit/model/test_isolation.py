"""Documents of a row are kept apart as the model's own layers would, on CPUs and by blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from families import LENGTH, VOCABULARY, make_store, plain_loss, tiny_config, tiny_model
from hpcscale.data.store import TokenStore
from hpcscale.errors import ConfigError
from hpcscale.evaluate.loss import evaluate
from hpcscale.model import attention, isolation
from hpcscale.model.build import load_model
from hpcscale.model.forward import token_nll
from hpcscale.model.isolation import check_isolation, isolating_inputs, way_to_isolate
from hpcscale.train.distributed import Ranks

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")
#: Sliding windows of 16 in all layers, in some, chunks of 16, and windows inside the layer.
NARROW = (
    "mistral mixtral phi3 gemma2 gemma3_text cohere2 olmo3 llama4_text gpt_neo starcoder2"
).split()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    made: TokenStore = make_store(tmp_path_factory.mktemp("isolation") / "store")
    return made


@pytest.fixture
def flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as written, which stands for the compiled one of GPUs."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)
    monkeypatch.setattr(attention, "flex_works", lambda device: True)


def load(folder: Path, kind: str, **config: Any) -> tuple[Any, Any]:
    plain: Any = tiny_model(tiny_config(kind, **config))
    plain.save_pretrained(folder)
    return load_model(folder), plain


def loss(model: Any, store: TokenStore, packing: Any) -> float:
    return evaluate(
        model, store, sequence_length=LENGTH, packing=packing, micro_batch=3, ranks=Ranks()
    ).loss


@pytest.mark.parametrize("kind", NARROW)
def test_windows_stay_in_packed_rows(tmp_path: Path, store: TokenStore, kind: str) -> None:
    model, plain = load(tmp_path, kind)
    assert loss(model, store, "isolate") == pytest.approx(
        plain_loss(plain, store, "isolate"), rel=1e-6
    )
    assert way_to_isolate(model) == "positions"


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "llama4_text", "qwen3", "gpt2"])
def test_windows_stay_in_blocks(
    tmp_path: Path, store: TokenStore, kind: str, flex: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain = load(tmp_path, kind)
    attention.install(model)
    made = []
    blocks = attention._blocks
    monkeypatch.setattr(attention, "_blocks", lambda *given: made.append(1) or blocks(*given))
    assert loss(model, store, "isolate") == pytest.approx(
        plain_loss(plain, store, "isolate"), rel=1e-5
    )
    assert made, "rows of several documents go by blocks"
    made.clear()
    assert loss(model, store, "concat") == pytest.approx(
        plain_loss(plain, store, "concat"), rel=1e-5
    )
    assert not made, "rows of one text do not"


def test_a_causal_mask_of_ours_would_drop_the_window(tmp_path: Path, store: TokenStore) -> None:
    model, plain = load(tmp_path, "mistral")
    isolation._ways[model] = "mask"
    right = plain_loss(plain, store, "isolate")
    assert abs(loss(model, store, "isolate") / right - 1) > 1e-4


@pytest.mark.parametrize("kind", ["opt", "biogpt", "xglm", "mpt", "falcon"])
def test_models_that_count_no_positions_take_a_mask(
    tmp_path: Path, store: TokenStore, kind: str
) -> None:
    model, plain = load(tmp_path, kind)
    assert loss(model, store, "isolate") == pytest.approx(
        plain_loss(plain, store, "isolate"), rel=1e-6
    )
    assert way_to_isolate(model) == "mask"


@pytest.mark.parametrize(
    ("kind", "config"),
    [("bloom", {}), ("falcon", {"alibi": True}), ("mamba", {}), ("rwkv", {}), ("bart", {})],
)
def test_models_that_cannot_keep_documents_apart_are_refused_by_name(
    tmp_path: Path, store: TokenStore, kind: str, config: dict[str, Any]
) -> None:
    model, plain = load(tmp_path, kind, **config)
    with pytest.raises(ConfigError, match=rf"`{kind}`.*write `packing: concat`"):
        loss(model, store, "isolate")
    assert loss(model, store, "concat") == pytest.approx(
        plain_loss(plain, store, "concat"), rel=1e-6
    )


def test_a_mask_of_ours_is_not_tried_where_layers_have_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load(tmp_path, "mistral")
    monkeypatch.setattr(isolation, "isolation_error", lambda model, way: float(way != "mask"))
    assert way_to_isolate(model) is None
    with pytest.raises(ConfigError, match="packing: concat"):
        check_isolation(model)


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "opt"])
def test_a_pass_in_sixteen_bits_tries_the_model_in_thirty_two(
    tmp_path: Path, store: TokenStore, kind: str
) -> None:
    model, plain = load(tmp_path, kind)
    found = evaluate(
        model,
        store,
        sequence_length=LENGTH,
        packing="isolate",
        micro_batch=3,
        ranks=Ranks(),
        precision="bf16",
    )
    assert found.loss == pytest.approx(plain_loss(plain, store, "isolate"), rel=0.02)
    assert way_to_isolate(model) == ("mask" if kind == "opt" else "positions")


def test_an_engine_s_wrappers_are_seen_through(tmp_path: Path) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    model, _ = load(tmp_path, "opt")
    wrapped = Wrapper(Wrapper(model))
    mask = isolating_inputs(wrapped, torch.zeros((1, 16), dtype=torch.int64))["attention_mask"]
    assert mask.shape == (1, 1, 16, 16)


@pytest.mark.slow
def test_a_compiled_model_keeps_documents_apart(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "gpt2")
    inputs = torch.randint(0, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(0))
    segments = torch.arange(48).div(20, rounding_mode="floor").expand(3, -1)
    positions = (torch.arange(48) % 20).expand(3, -1)
    given = (inputs, inputs.roll(-1, 1))
    apart, together = token_nll(model, *given, segments, positions), token_nll(model, *given)
    model.compile()
    assert torch.allclose(token_nll(model, *given, segments, positions), apart, atol=1e-5)
    assert torch.allclose(token_nll(model, *given), together, atol=1e-5)
    assert (apart - together).abs().max() > 0.1


def test_position_ids_and_a_mask_of_ours_give_gpt2_the_same_bits(tmp_path: Path) -> None:
    """Runs that an earlier version began, with a mask, go on to the same numbers."""
    model, _ = load(tmp_path, "gpt2")
    inputs = torch.randint(0, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(0))
    segments = torch.arange(48).div(7, rounding_mode="floor").expand(3, -1)
    positions = (torch.arange(48) % 7).expand(3, -1)

    def run(way: Any) -> list[torch.Tensor]:
        isolation._ways[model] = way
        nll = token_nll(model, inputs, inputs.roll(-1, 1), segments, positions)
        return [nll.detach(), *torch.autograd.grad(nll.sum(), list(model.parameters()))]

    for mine, theirs in zip(run("positions"), run("mask"), strict=True):
        assert torch.equal(mine, theirs)
