"""The order is a function of (seed, epoch, set of ids) alone."""

import numpy as np
import pytest

from hpcscale.data.order import document_order, keyed_hash

IDS = np.array([3, 2**64 - 1, 0, 17, 2**63, 12345678901234567890, 1, 2], dtype=np.uint64)
MASK = (1 << 64) - 1
GOLDEN_HASHES = [9734939280594458405, 12502299248922045470]
GOLDEN = {
    (0, 0): [3, 7, 2, 5, 0, 1, 4, 6],
    (1, 0): [3, 1, 6, 4, 5, 0, 7, 2],
    (0, 1): [7, 5, 1, 2, 6, 4, 3, 0],
}


def mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def test_mix_is_published_splitmix64():
    # The first outputs of the reference generator seeded with 1234567.
    outputs, state = [], 1234567
    for _ in range(3):
        state = state + 0x9E3779B97F4A7C15 & MASK
        outputs.append(mix(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    from hpcscale.data.order import _mix, _mix_int

    assert [_mix_int(int(i)) for i in IDS] == [mix(int(i)) for i in IDS]
    assert _mix(IDS).tolist() == [mix(int(i)) for i in IDS]


def test_golden_orders_never_change():
    assert keyed_hash(IDS[:2], 0, 0).tolist() == GOLDEN_HASHES
    assert document_order(IDS, seed=0).tolist() == GOLDEN[0, 0]
    assert document_order(IDS, seed=1).tolist() == GOLDEN[1, 0]
    assert document_order(IDS, seed=0, epoch=1).tolist() == GOLDEN[0, 1]


def test_order_is_independent_of_the_store_order():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**64, 5000, dtype=np.uint64)
    ordered = ids[document_order(ids, 7, 2)]
    for _ in range(3):
        shuffled = rng.permutation(ids)
        assert np.array_equal(shuffled[document_order(shuffled, 7, 2)], ordered)


def test_a_subset_keeps_its_relative_order():
    ids = np.arange(1000, dtype=np.uint64)
    whole = ids[document_order(ids, 3)]
    half = ids[::2]
    assert half[document_order(half, 3)].tolist() == [i for i in whole.tolist() if i % 2 == 0]


def test_positions_are_uniform_and_seeds_and_epochs_are_independent():
    n = 200
    ids = np.arange(n, dtype=np.uint64)  # neighbours: the hardest input for a weak mix
    first = np.array([document_order(ids, seed)[0] for seed in range(4000)])
    counts = np.bincount(first, minlength=n)
    chi2 = ((counts - 20) ** 2 / 20).sum()
    assert 120 < chi2 < 290  # 199 degrees of freedom: mean 199, sd 20
    ranks = [np.argsort(document_order(ids, s, e)) for s in range(4) for e in range(4)]
    correlation = np.corrcoef(ranks)
    assert np.abs(correlation - np.eye(16)).max() < 0.3  # 4.2 standard errors
    fixed = np.mean([(document_order(ids, s) == ids).sum() for s in range(500)])
    assert 0.8 < fixed < 1.2  # a random permutation has one fixed point on average


def test_seeds_outside_64_bits_are_refused():
    with pytest.raises(ValueError, match="-1"):
        document_order(IDS, -1)
    assert len(document_order(np.empty(0, dtype=np.uint64), 0)) == 0
