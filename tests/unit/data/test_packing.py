"""Packed rows against a packer that walks the stream one token at a time."""

import random

import numpy as np
import pytest

from hpcscale.data.packing import PackedStream
from hpcscale.errors import DataError

EOT = 99


@pytest.fixture
def store(make_store):
    rng = random.Random(0)
    lengths = [1, 7, 1, 1, 23, 40, 2, 5, 16, 16, 3]
    return make_store([[rng.randrange(99) for _ in range(n - 1)] + [EOT] for n in lengths])


def naive_rows(documents, n_tokens, length, packing):
    """(inputs, targets, segments, positions, count) of each row, straight from the definition."""
    stream, owners = [EOT], []
    for ordinal, tokens in enumerate(documents):
        stream += tokens
        owners += [ordinal] * len(tokens)
    rows = []
    for begin in range(0, n_tokens, length):
        row = ([], [], [], [])
        position = 0
        for j in range(begin, begin + length):
            real = j < n_tokens
            owner = owners[j] if real else -1
            if j > begin and packing == "isolate" and owner != row[2][-1]:
                position = 0
            row[0].append(stream[j] if real else EOT)
            row[1].append(stream[j + 1] if real else -100)
            row[2].append(owner)
            row[3].append(position)
            position += 1
        rows.append((*row, min(length, n_tokens - begin)))
    return rows


@pytest.mark.parametrize("packing", ["concat", "isolate"])
@pytest.mark.parametrize("length", [1, 4, 8, 16, 200])
@pytest.mark.parametrize("n_tokens", [1, 7, 8, 16, 64, 100, None])
def test_rows_equal_the_naive_packer(store, packing, length, n_tokens):
    order = np.array([4, 0, 1, 9, 9, 2, 3, 5, 10, 4, 6])  # repeats, as epochs make them
    documents = [store.tokens(i).tolist() for i in order]
    total = sum(map(len, documents))
    stream = PackedStream(store, order, n_tokens, length, packing)
    expected = naive_rows(documents, n_tokens or total, length, packing)
    assert stream.n_rows == len(expected)
    for start, stop in [(0, len(expected)), (len(expected) // 2, len(expected)), (0, 1)]:
        batch = stream.rows(start, stop)
        for name, column in zip(
            ("inputs", "targets", "segments", "positions", "tokens"),
            zip(*expected[start:stop], strict=True),
            strict=True,
        ):
            values = getattr(batch, name)
            assert values.dtype == np.int64
            assert values.tolist() == list(column), name


def test_every_token_is_a_target_exactly_once(store):
    order = np.arange(store.n_documents)[::-1].copy()
    stream = PackedStream(store, order, None, 8, "concat")
    batches = [stream.rows(r, r + 1) for r in range(stream.n_rows)]
    targets = np.concatenate([b.targets.ravel() for b in batches])
    expected = np.concatenate([store.tokens(i) for i in order])
    assert np.array_equal(targets[targets != -100], expected)
    assert sum(b.n_tokens for b in batches) == store.n_tokens == stream.n_tokens


def test_random_access_needs_no_earlier_rows(store):
    stream = PackedStream(store, np.arange(store.n_documents), 100, 8, "isolate")
    whole = stream.rows(0, stream.n_rows)
    for start in range(stream.n_rows):
        for stop in range(start, stream.n_rows + 1):
            part = stream.rows(start, stop)
            for name in ("inputs", "targets", "segments", "positions", "tokens"):
                assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_too_many_tokens_and_rows_beyond_the_end_are_errors(store):
    with pytest.raises(DataError, match=r"1000 tokens .* hold 115"):
        PackedStream(store, np.arange(store.n_documents), 1000, 8, "concat")
    stream = PackedStream(store, np.arange(store.n_documents), 100, 8, "concat")
    with pytest.raises(IndexError, match="rows 0 to 14 of 13"):
        stream.rows(0, 14)
    with pytest.raises(DataError, match="packing 'pad'"):
        PackedStream(store, np.arange(3), 1, 8, "pad")  # type: ignore[arg-type]


def test_an_empty_stream_has_no_rows(store):
    stream = PackedStream(store, np.empty(0, dtype=np.int64), None, 8, "concat")
    assert stream.n_rows == 0
    assert stream.rows(0, 0).n_tokens == 0
