"""Size and FLOPs of a model that is not loaded: from its shape, or the headers of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from families import LENGTH, SIX, VOCABULARY, tiny_config, tiny_model
from hpcscale.config.model import ModelConfig, Shape
from hpcscale.model.build import build_model
from hpcscale.model.flops import model_flops_per_token
from hpcscale.model.sizes import flops_per_token, model_size


@pytest.mark.parametrize("shard", ["50GB", "40KB"])
@pytest.mark.parametrize("kind", SIX)
def test_headers_give_the_same_without_loading(tmp_path: Path, kind: str, shard: str) -> None:
    model: Any = tiny_model(tiny_config(kind, **SIX[kind]))
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard == "40KB"
    source = ModelConfig(source=str(tmp_path))
    assert flops_per_token(source, None, LENGTH) == model_flops_per_token(model, LENGTH)
    size = model_size(source, None)
    assert size is not None
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert (size.layers, size.width, size.vocabulary) == (2, 32, VOCABULARY)


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
    shape = Shape(layers=3, width=24, heads=4)
    planned = flops_per_token(ModelConfig(scratch=shape), 300, 128)
    model = build_model(shape, 300, 128, 299)
    assert planned == model_flops_per_token(model, 128)
    assert planned == 6 * (12 * 3 * 24**2 + 300 * 24) + 12 * 3 * 24 * 128
