"""FLOPs of six families: by hand, by torch's counter, and by the headers of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from families import LENGTH, SIX, VOCABULARY, tiny_config, tiny_model
from hpcscale.model.flops import attention_width, matmul_parameters, model_flops_per_token
from hpcscale.model.headers import read_written

#: Two layers of width 32, four heads of 8, an inner width of 48; 2 key heads where they are fewer.
QUERIES_AND_OUT, FEWER_KEYS_AND_VALUES = 2 * 32 * 32, 2 * 32 * (2 * 8)
HEAD = 32 * VOCABULARY
WEIGHTS = {
    "gpt2": 2 * (32 * 96 + 32 * 32 + 2 * 32 * 48) + HEAD,
    "llama": 2 * (QUERIES_AND_OUT + FEWER_KEYS_AND_VALUES + 3 * 32 * 48) + HEAD,
    "qwen2": 2 * (QUERIES_AND_OUT + FEWER_KEYS_AND_VALUES + 3 * 32 * 48) + HEAD,
    "gpt_neox": 2 * (32 * 96 + 32 * 32 + 2 * 32 * 48) + HEAD,
    "opt": 2 * (4 * 32 * 32 + 2 * 32 * 48) + 2 * 16 * 32 + 16 * VOCABULARY,
    # Two of four experts, and the router that chooses them.
    "mixtral": 2 * (QUERIES_AND_OUT + FEWER_KEYS_AND_VALUES + 2 * 3 * 32 * 48 + 4 * 32) + HEAD,
}


@pytest.fixture(scope="module", params=SIX)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    torch.set_num_threads(1)
    return request.param, tiny_model(tiny_config(request.param, **SIX[request.param]))


def test_weights_are_those_that_are_counted_by_hand(family: tuple[str, Any]) -> None:
    kind, model = family
    assert matmul_parameters(model) == WEIGHTS[kind]
    attention = 12 * 2 * (4 * 8) * LENGTH
    assert model_flops_per_token(model, LENGTH) == 6 * WEIGHTS[kind] + attention


def counted(model: Any) -> float:
    """By torch, which knows products of matrices alone; backward is twice forward."""
    model.set_experts_implementation("eager")
    rows = torch.randint(8, VOCABULARY, (1, LENGTH))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=rows, use_cache=False)
    return 3 * counter.get_total_flops() / LENGTH


def test_they_are_what_torch_counts(family: tuple[str, Any]) -> None:
    kind, model = family
    assert model_flops_per_token(model, LENGTH) == pytest.approx(counted(model), rel=0.02), kind


def test_heads_that_are_wider_than_the_model_count_by_their_width() -> None:
    wide: Any = tiny_model(tiny_config("qwen3", head_dim=24))
    attention = 12 * 2 * (4 * 24) * LENGTH
    weights = 2 * (2 * 32 * 4 * 24 + 2 * 32 * 2 * 24 + 3 * 32 * 48) + HEAD
    assert model_flops_per_token(wide, LENGTH) == 6 * weights + attention
    assert model_flops_per_token(wide, LENGTH) == pytest.approx(counted(wide), rel=0.02)


def test_layers_without_attention_have_no_attention_term() -> None:
    mixed: Any = tiny_model(tiny_config("lfm2", layer_types=["conv", "full_attention"]))
    found = [model_flops_per_token(mixed, length) for length in (LENGTH, 2 * LENGTH)]
    assert found[0] is not None
    assert found[1] == found[0] + 12 * (4 * 8) * LENGTH
    assert found[0] == pytest.approx(counted(mixed), rel=0.02)


def test_linear_attention_is_none_where_only_names_tell_it() -> None:
    names = [
        f"layers.{i}.{kind}.q_proj.weight"
        for i, kind in enumerate(["linear_attn", "linear_attn", "self_attn"])
    ]
    assert attention_width(names, {"num_attention_heads": 4, "hidden_size": 32}) == 2 * 32


def test_a_tied_head_that_is_written_twice_counts_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model: Any = tiny_model(tiny_config("gpt2"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # a mask of older versions
    save_file(tensors, file)
    written = read_written(tmp_path)
    assert written is not None
    assert written.matmul == WEIGHTS["gpt2"]
    assert written.parameters == sum(p.numel() for p in model.parameters())
