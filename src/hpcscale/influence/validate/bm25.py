"""BM25 on token ids: the baseline for measures of how related two texts are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hpcscale.types import Floats

Tokens = npt.NDArray[np.integer]  # type: ignore[type-arg]


def bm25(
    documents: Sequence[Tokens],
    queries: Sequence[Tokens],
    vocab_size: int,
    k1: float = 1.2,
    b: float = 0.75,
) -> Floats:
    """Score of each document for each query, float64 [documents, queries].

    Sum over the tokens t of the query, as often as they occur there, of
    idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|)) (Robertson and Zaragoza 2009, eq.
    3.15), with idf(t) = ln(1 + (N - df + 1/2) / (df + 1/2)), which is never negative.
    """
    from scipy.sparse import csr_array

    counts = _counts(documents, vocab_size)
    lengths = np.array([len(d) for d in documents], dtype=np.float64)
    found = np.bincount(counts.indices, minlength=vocab_size)
    idf = np.log1p((len(documents) - found + 0.5) / (found + 0.5))
    row = np.repeat(np.arange(len(documents)), np.diff(counts.indptr))
    tf = counts.data
    saturated = tf * (k1 + 1) / (tf + k1 * (1 - b + b * lengths[row] / lengths.mean()))
    weights = csr_array(
        (saturated * idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape
    )
    scores: Floats = (weights @ _counts(queries, vocab_size).T).toarray()
    return scores


def _counts(texts: Sequence[Tokens], vocab_size: int):  # type: ignore[no-untyped-def]
    """How often each token occurs in each text, sparse [texts, vocabulary]."""
    from scipy.sparse import csr_array

    parts = [np.unique(text, return_counts=True) for text in texts]
    ends = np.cumsum([0, *(len(tokens) for tokens, _ in parts)])
    tokens = np.concatenate([p[0] for p in parts]).astype(np.int64)
    counts = np.concatenate([p[1] for p in parts]).astype(np.float64)
    return csr_array((counts, tokens, ends), shape=(len(texts), vocab_size))
