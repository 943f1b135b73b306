"""The one-pass choice of the lowest keys against sorting everything."""

import numpy as np
import pytest

from hpcscale.data.fill_store import _ORDER_KEY, Encoded, KeyedPrefix, keep_first
from hpcscale.data.order import keyed_hash
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

SEED = 5


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("wanted", [1, 50, 51, 400, 2000, None])
def test_prefix_equals_a_full_sort(tmp_path, batch, wanted):
    rng = np.random.default_rng(1)
    distinct = rng.integers(0, 2**64, 600, dtype=np.uint64)
    # Every fourth document comes again later: before and after the bound has fallen.
    read = np.concatenate([distinct, distinct[::4]])
    lengths = {int(i): 1 + int(i) % 9 for i in distinct}
    prefix = KeyedPrefix(tmp_path / "spool", SEED, wanted, np.dtype(np.uint16))
    encoded = duplicates = 0
    for begin in range(0, len(read), batch):
        ids = read[begin : begin + batch]
        keep, repeated = prefix.wants(ids)
        duplicates += repeated
        encoded += int(keep.sum())
        prefix.add(
            [
                Encoded(
                    int(i), f"d{int(i) % 3}", int(i) % 100, np.full(lengths[int(i)], int(i) % 1000)
                )
                for i in ids[keep]
            ]
        )
    taken = list(prefix.drain())

    by_key = sorted(distinct.tolist(), key=lambda i: int(keyed_hash([i], SEED, _ORDER_KEY)[0]))
    expected, total = [], 0
    for identity in by_key:
        if wanted is not None and total >= wanted:
            break
        expected.append(identity)
        total += lengths[identity]
    assert [item.identity for item in taken] == expected
    for item in taken:
        assert item.domain == f"d{item.identity % 3}"
        assert item.n_bytes == item.identity % 100
        assert item.tokens.tolist() == [item.identity % 1000] * lengths[item.identity]
    assert not (tmp_path / "spool").exists()
    if wanted is None:
        assert duplicates == 150
    elif batch < 1000:
        # Little more than the answer was ever tokenised: n (1 + log(N / n)) and the slack.
        share = len(expected) / 600
        assert encoded <= 1.6 * 600 * share * (1 - np.log(share)) + 2 * batch + 10


def test_keep_first_counts_repeats_inside_a_batch():
    seen: set[int] = {4}
    ids = np.array([1, 2, 1, 4, 3, 2], dtype=np.uint64)
    mask = np.array([True, True, True, True, False, True])
    keep, repeated = keep_first(ids, mask, seen)
    assert keep.tolist() == [True, True, False, False, False, False]
    assert repeated == 3
    assert seen == {1, 2, 4}


def test_the_limit_of_broken_records_is_exact():
    report = ReadReport(documents=99)
    report.check(0)
    report.add_broken("file:1", "why")
    report.check(0.01)
    with pytest.raises(DataError, match=r"1 of 100 records .*1\.00%.*0\.90%.*file:1: why"):
        report.check(0.009)
    with pytest.raises(DataError):
        report.check(0)
