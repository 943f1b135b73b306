"""Probes tell models apart by what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import make_store, plain_document_nll, tiny_config, tiny_model
from hpcscale.evaluate.loss import document_nll
from hpcscale.model import probes
from hpcscale.model.build import load_model
from hpcscale.model.probes import future_influence, head_is_last, logits_of, selected_logits

#: What each does to logits behind its head.
SCALED: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.06},
    "gemma2": {"final_logit_softcapping": 3.0},
    "gpt2": {},
    "opt": {"word_embed_proj_dim": 16},
}


@pytest.mark.parametrize("kind", SCALED)
def test_document_scores_are_those_of_the_model_s_own_logits(tmp_path: Path, kind: str) -> None:
    plain: Any = tiny_model(tiny_config(kind, **SCALED[kind]))
    plain.save_pretrained(tmp_path / "model")
    store = make_store(tmp_path / "store")
    model = load_model(tmp_path / "model")
    assert head_is_last(model), "the short cut is taken"
    found, _ = document_nll(
        model,
        store,
        np.arange(store.n_documents),
        sequence_length=64,
        device=torch.device("cpu"),
    )
    assert found == pytest.approx(plain_document_nll(plain, store), rel=1e-6)


class Later(torch.nn.Module):
    """Logits that depend on all places of a row, behind the head."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def forward(self, **given: Any) -> Any:
        found = self.inner(**given)
        found.logits = found.logits + found.logits.cumsum(1)
        return found


def test_the_short_cut_is_not_taken_where_it_gives_other_logits() -> None:
    model = Later(tiny_model(tiny_config("gpt2")))
    assert not head_is_last(model)


def test_selected_logits_are_rows_of_all_logits() -> None:
    model = tiny_model(tiny_config("llama"))
    rows = torch.arange(8, 48).view(2, 20)
    chosen = rows % 3 == 0
    with torch.no_grad():
        found = selected_logits(model, rows, chosen)
    assert torch.allclose(found, logits_of(model, rows)[chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "bert"])
def test_causal_models_move_no_earlier_logit(kind: str) -> None:
    assert future_influence(tiny_model(tiny_config(kind))) < 1e-6


@pytest.mark.parametrize(
    ("kind", "config"), [("bert", {"is_decoder": False}), ("xlm", {}), ("cpmant", {})]
)
def test_others_do(kind: str, config: dict[str, Any]) -> None:
    assert future_influence(tiny_model(tiny_config(kind, **config))) > 100 * probes.ROUNDING
