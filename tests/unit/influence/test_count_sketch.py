"""Hashing in stretches keeps inner products, with the variance of a count sketch."""

from __future__ import annotations

import pytest
import torch

from hpcscale.influence.count_sketch import CountSketch, generator

CPU = torch.device("cpu")


def ring(size: int, buckets: int, seed: int) -> CountSketch:
    return CountSketch(size, buckets, generator(seed, "test"), CPU, torch.float64)


@pytest.mark.parametrize(("size", "buckets"), [(40, 8), (37, 16), (5, 8), (64, 64)])
def test_mean_and_variance_of_inner_products(size: int, buckets: int) -> None:
    """Var<Sx, Sy> is the sum over pairs of columns in different stretches of
    (x_i^2 y_j^2 + x_i y_i x_j y_j) / buckets, and <x, y> the mean."""
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, size, generator=random, dtype=torch.float64)
    stretch = torch.arange(size) // buckets
    apart = (stretch[:, None] != stretch).double()
    pairs = torch.outer(x**2, y**2) + torch.outer(x * y, x * y)
    variance = float((apart * pairs).sum() / buckets)
    seeds = 4000
    found = []
    for seed in range(seeds):
        a, b = ring(size, buckets, seed).hash(torch.stack([x, y]))
        found.append(a @ b)
    values = torch.stack(found)
    assert float(values.mean()) == pytest.approx(
        float(x @ y), abs=5 * (variance / seeds) ** 0.5 + 1e-12
    )
    assert float(values.var()) == pytest.approx(variance, rel=0.15, abs=1e-12)


def test_row_places_are_the_hash_of_unit_vectors() -> None:
    made = ring(37, 16, 3)
    places, signs = made.row_places()
    expected = torch.zeros(37, 16, dtype=torch.float64)
    expected[torch.arange(37), places] = signs
    assert torch.equal(made.hash(torch.eye(37, dtype=torch.float64)), expected)


def test_seed_and_words_alone_decide() -> None:
    assert ring(100, 7, 5).turns == ring(100, 7, 5).turns
    assert torch.equal(ring(100, 7, 5).signs, ring(100, 7, 5).signs)
    assert not torch.equal(ring(100, 7, 5).signs, ring(100, 7, 6).signs)
    # A word's end counts: ("ab", "c") is not ("a", "bc").
    first, other = (
        torch.randint(0, 1 << 30, (4,), generator=generator(0, *w))
        for w in (("ab", "c"), ("a", "bc"))
    )
    assert not torch.equal(first, other)
