"""A model and a store: what counts are the tokens that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.errors import CheckpointError
from hpcscale.model import limits
from hpcscale.model.limits import check_vocabulary


def store(out: Path, tokens: list[list[int]], size: int, eot: int) -> TokenStore:
    out.mkdir()
    writer = StoreWriter(out, size)
    for identity, document in enumerate(tokens):
        writer.append(identity, "all", len(document), np.array(document))
    writer.finish("eval", eot, {})
    return TokenStore.open(out)


def test_padding_past_the_embeddings_does_not_matter_where_no_text_has_it(tmp_path: Path) -> None:
    made = store(tmp_path / "store", [[3, 99, 0], [7, 0]], size=101, eot=0)
    check_vocabulary("cell", 101, made)
    check_vocabulary("cell", 100, made)


def test_a_token_past_the_embeddings_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_CHUNK", 2)
    made = store(tmp_path / "store", [[3, 99, 0], [7, 100, 0]], size=101, eot=0)
    with pytest.raises(CheckpointError, match=r"cell has 100 embeddings.* token 100; .*resize"):
        check_vocabulary("cell", 100, made)
    with pytest.raises(CheckpointError, match="holds token 99"):
        check_vocabulary("cell", 99, made)


def test_an_end_of_text_past_the_embeddings_is_named(tmp_path: Path) -> None:
    made = store(tmp_path / "store", [[3, 100]], size=101, eot=100)
    with pytest.raises(CheckpointError, match="the end of text, token 100"):
        check_vocabulary("cell", 100, made)


def test_a_store_without_tokens_is_judged_by_its_end_of_text(tmp_path: Path) -> None:
    made = store(tmp_path / "store", [], size=101, eot=4)
    check_vocabulary("cell", 5, made)
    with pytest.raises(CheckpointError, match="token 4"):
        check_vocabulary("cell", 4, made)
