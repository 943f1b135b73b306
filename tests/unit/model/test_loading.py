"""A checkpoint gives a model all of its weights, or is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from families import tiny_config, tiny_model
from hpcscale.errors import CheckpointError
from hpcscale.model.build import load_model
from hpcscale.model.probes import logits_of

Weights = dict[str, Tensor]
ROWS = torch.arange(8, 40)[None]


def save(folder: Path, kind: str = "gpt2", **config: Any) -> torch.nn.Module:
    model = tiny_model(tiny_config(kind, **config))
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def edit(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_a_whole_checkpoint_gives_the_logits_that_were_saved(tmp_path: Path) -> None:
    model = save(tmp_path)
    assert torch.equal(logits_of(load_model(tmp_path), ROWS), logits_of(model, ROWS))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_names_of_a_compiled_model_are_refused_with_the_way_out(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    edit(tmp_path, lambda weights: {f"_orig_mod.{k}": v for k, v in weights.items()})
    with pytest.raises(CheckpointError, match=r"not in the checkpoint: .*_orig_mod\.save_pretr"):
        load_model(tmp_path)


def test_names_of_a_wrapper_are_refused_with_its_name(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, lambda weights: {f"engine.module.{k}": v for k, v in weights.items()})
    with pytest.raises(CheckpointError, match=r"start with `engine\.module\.`, as a wrapper"):
        load_model(tmp_path)


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v for k, v in weights.items() if k != name}


BIAS = "transformer.h.1.mlp.c_fc.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(BIAS), rf"1 parameter is not in the checkpoint: {re.escape(BIAS)}\. "),
        (
            lambda w: w | {BIAS: w[BIAS][:40]},
            r"1 parameter has another shape there: \S+ \(shape \(40,\) in the file, \(48,\) in the",
        ),
        (
            lambda w: w | {"transformer.h.2.ln_1.bias": torch.zeros(32)},
            r"1 tensor of it belongs to no parameter: transformer\.h\.2\.ln_1\.bias",
        ),
        (
            lambda w: {k: v for k, v in w.items() if ".h.1." not in k},
            r"12 parameters are not in the checkpoint: .* and 9 more",
        ),
    ],
    ids=["missing", "shape", "unexpected", "layer"],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[Weights], Weights], message: str
) -> None:
    save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_fewer_layers_in_the_config_than_in_the_file_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 1}))
    with pytest.raises(CheckpointError, match="11 tensors of it belong to no parameter"):
        load_model(tmp_path)


def test_a_head_of_its_own_must_be_there_and_a_tied_one_need_not(tmp_path: Path) -> None:
    apart, tied = tmp_path / "apart", tmp_path / "tied"
    save(apart, "llama", tie_word_embeddings=False)
    edit(apart, without("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_model(apart)
    save(tied, "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_model(tied)


def test_constants_that_older_versions_saved_and_names_without_a_prefix_are_harmless(
    tmp_path: Path,
) -> None:
    model = save(tmp_path)
    constants = {
        "h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    edit(tmp_path, lambda w: {k.removeprefix("transformer."): v for k, v in w.items()} | constants)
    assert torch.equal(logits_of(load_model(tmp_path), ROWS), logits_of(model, ROWS))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, lambda w: w | {BIAS: torch.full_like(w[BIAS], torch.nan)})
    with pytest.raises(CheckpointError, match="logits that are not finite"):
        load_model(tmp_path)


def test_a_model_that_sees_the_future_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", is_decoder=False)
    with pytest.raises(CheckpointError, match=r"sees the future.*`is_decoder`"):
        load_model(tmp_path)


def test_a_decoder_of_the_same_type_is_accepted(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    load_model(tmp_path)


@pytest.mark.parametrize("kind", ["gemma2", "bloom", "mamba", "roformer"])
def test_models_without_torch_s_attention_give_the_logits_of_transformers(
    tmp_path: Path, kind: str
) -> None:
    model = save(tmp_path, kind)
    found, expected = logits_of(load_model(tmp_path), ROWS), logits_of(model, ROWS)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it has no config.json"),
        ({"config.json": "gpt2"}, r"holds no weights: .*no \*\.safetensors"),
        ({"config.json": "gpt2", "pytorch_model.bin": ""}, r"convert them once: python -c"),
        ({"config.json": "t5", "model.safetensors": ""}, "`t5`, for which Transformers 5"),
        ({"config.json": "nonesuch", "model.safetensors": ""}, "cannot be loaded .*nonesuch"),
        ({"config.json": "gpt2", "model.safetensors": "cut"}, "cannot be loaded .*fetch it again"),
        ({"config.json": "gpt2", "adapter_config.json": "{}"}, "an adapter beside the model"),
        ({"config.json": "gemma3"}, "`gemma3`, which reads more than text"),
    ],
    ids=["empty", "config", "bin", "t5", "unknown", "cut", "adapter", "images"],
)
def test_what_cannot_be_loaded_is_told_apart(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        written = json.dumps({"model_type": text}) if name == "config.json" else text
        (tmp_path / name).write_text(written)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no directory \S+nowhere; give"):
        load_model(tmp_path / "nowhere")


def test_sixteen_bit_weights_are_widened(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, lambda weights: {k: v.half() for k, v in weights.items()})
    loaded = load_model(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
