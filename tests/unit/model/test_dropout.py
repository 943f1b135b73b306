"""No training pass is random: found by behaviour, in modules, functions and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import LENGTH, make_store, tiny_config, tiny_model
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.errors import CheckpointError
from hpcscale.model.build import load_model
from hpcscale.model.dropout import check_repeatable, training_noise
from hpcscale.model.probes import logits_of
from hpcscale.train.distributed import Ranks
from hpcscale.train.loop import train
from hpcscale.train.options import RunSetup

#: With dropout of 0.1, and what else makes a pass random in these.
RANDOM: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "bert": {},
    "opt": {"layerdrop": 0.5},
    "bart": {},
    "xglm": {},
    "biogpt": {},
    "falcon": {},
    "gpt_neox": {},
    "mixtral": {"router_jitter_noise": 0.1},
    "trocr": {"decoder_layerdrop": 0.5},
}


@pytest.mark.parametrize("kind", RANDOM)
def test_no_training_pass_is_random(tmp_path: Path, kind: str) -> None:
    plain: Any = tiny_model(tiny_config(kind, **RANDOM[kind]))
    assert training_noise(plain) > 1e-3, "as it comes it is random"
    plain.save_pretrained(tmp_path)
    assert training_noise(load_model(tmp_path)) == 0


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_dropout_in_the_trainingchanges_no_result_and_nor_do_micro_batches(
    tmp_path: Path, kind: str
) -> None:
    """OPT's dropout is a function and not a module, so that to switch modules off is not enough."""
    store = make_store(tmp_path / "store")
    stream = PackedStream(store, np.arange(store.n_documents), 5 * LENGTH, LENGTH)
    settings = [
        name
        for name in ("dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")
        if hasattr(tiny_config(kind), name)
    ]
    losses = {}
    for dropout in (0.1, 0.0):
        config = tiny_config(kind)
        for name in settings:
            setattr(config, name, dropout)
        folder = tmp_path / f"{kind}-{dropout}"
        tiny_model(config).save_pretrained(folder)  # type: ignore[operator]
        for micro_batch in (1, 2, 4):
            out = folder / str(micro_batch)
            out.mkdir()
            training = TrainConfig(
                global_batch=4 * LENGTH, micro_batch=micro_batch, lr=1e-3, warmup=0
            )
            setup = RunSetup("torch", "fp32", 0, Ranks(), out, "key")
            result = train(load_model(folder), stream, training, setup)
            losses[dropout, micro_batch] = result.train_loss
    assert losses.values() == pytest.approx([losses[0.0, 4]] * 6, rel=1e-5)


class Noisy(torch.nn.Module):
    """A functional dropout that no setting names."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(hidden, 0.1, self.training)


def test_a_model_that_stays_random_is_not_trained(tmp_path: Path) -> None:
    model: Any = tiny_model(tiny_config("gpt2"))
    model.transformer.ln_f = torch.nn.Sequential(model.transformer.ln_f, Noisy())
    with pytest.raises(CheckpointError, match=r"gpt2.*something random in training"):
        check_repeatable(model)
    store = make_store(tmp_path / "store")
    stream = PackedStream(store, np.arange(store.n_documents), 5 * LENGTH, LENGTH)
    setup = RunSetup("torch", "fp32", 0, Ranks(), tmp_path, "key")
    with pytest.raises(CheckpointError, match="train another model"):
        train(model, stream, TrainConfig(global_batch=4 * LENGTH), setup)


def test_jitter_that_decides_in_evaluation_too_stays_and_is_not_trained(tmp_path: Path) -> None:
    plain: Any = tiny_model(tiny_config("phimoe", router_jitter_noise=0.1))
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    rows = torch.arange(8, 40)[None]
    assert torch.equal(logits_of(model, rows), logits_of(plain, rows))
    with pytest.raises(CheckpointError, match="something random in training"):
        check_repeatable(model)


def test_the_probe_leaves_the_mode_and_the_random_numbers_as_they_were() -> None:
    model = tiny_model(tiny_config("gpt2"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_noise(model.eval())
    assert not model.training
    assert torch.equal(torch.rand(3), expected)
