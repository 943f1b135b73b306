"""Documents one by one: windows of at most one sequence length, batched by similar length.

A document that fits is one window; a longer one is cut into windows that do not see one another.
The first token of a document is predicted from end-of-text. No window sees another document, so its
results do not depend on its batch.
"""

from __future__ import annotations

import numpy as np

from hpcscale.data.packing import IGNORED
from hpcscale.data.store import TokenStore
from hpcscale.types import Ints


def document_windows(store: TokenStore, positions: Ints, length: int) -> Ints:
    """Rows (index into ``positions``, first target in the document, targets), int64 [k, 3]."""
    sizes = store.lengths[positions]
    counts = -(-sizes // length)
    owner = np.repeat(np.arange(len(positions)), counts)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = nth * length
    return np.stack([owner, first, np.minimum(sizes[owner] - first, length)], axis=1)


def batch_windows(windows: Ints, batch_tokens: int, max_rows: int | None = None) -> list[Ints]:
    """The windows, longest first, in batches whose padded size stays within ``batch_tokens``."""
    ranked = windows[np.argsort(-windows[:, 2], kind="stable")]
    groups, start = [], 0
    while start < len(ranked):
        count = max(1, batch_tokens // int(ranked[start, 2]))
        count = min(count, max_rows or count)
        groups.append(ranked[start : start + count])
        start += count
    return groups


def gather_windows(store: TokenStore, positions: Ints, group: Ints) -> tuple[Ints, Ints]:
    """Inputs and targets of a batch, int64 [B, W], padded on the right.

    Padding comes after every real token, so causal attention never sees it.
    """
    width = int(group[:, 2].max())
    inputs = np.full((len(group), width), store.eot_id, dtype=np.int64)
    targets = np.full((len(group), width), IGNORED, dtype=np.int64)
    for row, (owner, first, count) in enumerate(group):
        tokens = store.tokens(int(positions[owner]))
        targets[row, :count] = tokens[first : first + count]
        context = tokens[max(first - 1, 0) : first + count - 1]
        inputs[row, count - len(context) : count] = context
    return inputs, targets
