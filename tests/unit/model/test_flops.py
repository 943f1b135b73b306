"""FLOPs of six families: by hand, by torch's counter, and by the headers of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from families import LENGTH, VOCABULARY, tiny_config, tiny_model
from hpcscale.config.model import ModelConfig
from hpcscale.model.flops import attention_width, matmul_parameters, model_flops_per_token
from hpcscale.model.headers import read_written
from hpcscale.preview.cost import flops_per_token, model_size

#: Two layers of width 32, four heads of 8, an inner width of 48; 2 key heads where they are fewer.
GIVEN: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "opt": {"word_embed_proj_dim": 16},
    "mixtral": {},
}
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


@pytest.fixture(scope="module", params=GIVEN)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    torch.set_num_threads(1)
    return request.param, tiny_model(tiny_config(request.param, **GIVEN[request.param]))


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


@pytest.mark.parametrize("shard", ["50GB", "40KB"])
def test_headers_give_the_same_without_loading(
    family: tuple[str, Any], tmp_path: Path, shard: str
) -> None:
    _, model = family
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard == "40KB"
    source = ModelConfig(source=str(tmp_path))
    assert flops_per_token(source, None, LENGTH) == model_flops_per_token(model, LENGTH)
    size = model_size(source, None)
    assert size is not None
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert (size.layers, size.width, size.vocabulary) == (2, 32, VOCABULARY)


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


def damaged(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(config.read_text())
    if how == "no weights":
        weights.unlink()
    elif how == "a pointer of git-lfs":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif how == "cut short":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "a layer too few":
        config.write_text(json.dumps(values | {"num_hidden_layers": 3}))
    elif how == "another vocabulary":
        config.write_text(json.dumps(values | {"vocab_size": 100}))
    elif how == "quantized":
        config.write_text(json.dumps(values | {"quantization_config": {"bits": 4}}))
    elif how == "no config":
        config.unlink()
    elif how == "a config that is a list":
        config.write_text("[]")


@pytest.mark.parametrize(
    "how",
    [
        "no weights",
        "a pointer of git-lfs",
        "cut short",
        "a layer too few",
        "another vocabulary",
        "quantized",
        "no config",
        "a config that is a list",
    ],
)
def test_what_files_do_not_tell_is_not_guessed(tmp_path: Path, how: str) -> None:
    tiny_model(tiny_config("llama")).save_pretrained(tmp_path)  # type: ignore[operator]
    source = ModelConfig(source=str(tmp_path))
    assert flops_per_token(source, None, LENGTH) is not None
    damaged(tmp_path, how)
    assert flops_per_token(source, None, LENGTH) is None
    assert model_size(source, None) is None


def test_experts_of_an_unknown_choice_leave_flops_unknown(tmp_path: Path) -> None:
    model: Any = tiny_model(tiny_config("mixtral"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    del values["num_experts_per_tok"]
    file.write_text(json.dumps(values))
    assert flops_per_token(ModelConfig(source=str(tmp_path)), None, LENGTH) is None


def test_a_gpt2_from_scratch_is_planned_as_it_is_recorded(tmp_path: Path) -> None:
    from hpcscale.config.model import Shape
    from hpcscale.model.build import build_model

    shape = Shape(layers=3, width=24, heads=4)
    planned = flops_per_token(ModelConfig(scratch=shape), 300, 128)
    model = build_model(shape, 300, 128, 299)
    assert planned == model_flops_per_token(model, 128)
    assert planned == 6 * (12 * 3 * 24**2 + 300 * 24) + 12 * 3 * 24 * 128
