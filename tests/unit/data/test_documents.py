import hashlib

import pytest

from hpcscale.data.documents import format_id, text_id, unit_hash


@pytest.mark.parametrize("text", ["", "a", "Grüße 日本 🙂", "x" * 10_000])
def test_id_is_the_head_of_sha256(text):
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert format_id(text_id(text)) == digest[:16]


def test_known_id():
    assert text_id("abc") == 0xBA7816BF8F01CFEA  # FIPS 180-4's example


def test_unit_hash_stays_below_one():
    assert unit_hash(0) == 0
    assert unit_hash(1 << 63) == 0.5
    assert unit_hash(2**64 - 1) < 1
    assert (2**64 - 1) / 2**64 == 1.0  # why the plain quotient will not do


def test_unit_hash_splits_by_share():
    hashes = [unit_hash(text_id(str(i))) for i in range(20_000)]
    share = sum(0.1 <= h < 0.4 for h in hashes) / len(hashes)
    assert abs(share - 0.3) < 0.01
