from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TokenStore]:
    """A store of the given token lists; document i has the text ``str(i)`` for its id."""

    def make(documents: list[list[int]], eot: int = 99, vocab: int = 100) -> TokenStore:
        directory = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        writer = StoreWriter(directory, vocab)
        for i, tokens in enumerate(documents):
            digest = hashlib.sha256(str(i).encode()).digest()
            identity = int.from_bytes(digest[:8], "big")
            writer.append(identity, f"domain-{i % 2}", 4 * len(tokens), np.array(tokens))
        writer.finish("pool", eot, {})
        return TokenStore.open(directory, verify=True)

    return make
