"""AUC, rank correlations and BM25 against brute force and values worked out by hand."""

from __future__ import annotations

import csv
import io
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from hpcscale.errors import DataError
from hpcscale.influence.validate.bm25 import bm25
from hpcscale.influence.validate.foreign import catalogue_text, other_language, read_catalogue
from hpcscale.influence.validate.report import Table, pivot
from hpcscale.influence.validate.statistics import (
    Interval,
    auc,
    mean_interval,
    mean_spearman,
    spearman_rows,
)


def test_auc_counts_pairs_and_half_ties() -> None:
    high, low = np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    assert auc(high, low).value == pytest.approx(sum(pairs) / 6)
    assert auc(high, low).value == pytest.approx(4.5 / 6)
    assert auc(low + 10, high) == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_the_interval_of_an_auc_is_delongs(shift: float) -> None:
    """The closed form of DeLong, DeLong and Clarke-Pearson 1988, from brute-force pairs."""
    rng = np.random.default_rng(4)
    high, low = rng.normal(shift, 1, 90), rng.normal(0, 1, 70)
    wins = np.array([[float(a > b) for b in low] for a in high])
    variance = wins.mean(1).var(ddof=1) / 90 + wins.mean(0).var(ddof=1) / 70
    found = auc(high, low)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.08)
    assert found.low < wins.mean() < found.high


def test_pairs_that_move_together_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 5, 80)
    spoilt = clean - 0.5 + 0.01 * rng.normal(size=80)
    together, apart = auc(clean, spoilt, paired=True), auc(clean, spoilt)
    assert together.value == apart.value
    assert together.high - together.low < 0.5 * (apart.high - apart.low)
    assert together.low > 0.5 > apart.low


def test_spearman_rows_is_scipys_with_ties_and_constants() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 5, (6, 20)).astype(float), rng.normal(size=(6, 20))
    expected = [spearmanr(a, b).statistic for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(spearman_rows(left, right), expected)
    assert spearman_rows(np.ones((1, 4)), np.arange(4.0)[None])[0] == 0


def test_mean_spearman_and_its_paired_difference() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(30, 40))
    good, bad = (mean_spearman(truth + s * rng.normal(size=truth.shape), truth) for s in (0.5, 3))
    assert good.over_rows.low < good.over_rows.value < good.over_rows.high
    both, rows = good.over_both, good.over_rows
    assert both.high - both.low > rows.high - rows.low, "more is drawn anew"
    assert good.above(bad).low > 0.2
    assert good.above(good) == Interval(0.0, 0.0, 0.0)


def test_mean_interval_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=7), rng.normal(size=7)
    found = mean_interval(one - other)
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(mean_interval(np.array([1.0])).low)


def test_bm25_by_hand() -> None:
    documents = [np.array([0, 1, 1, 4]), np.array([0, 2]), np.array([0, 3, 3, 3, 3, 3])]
    queries = [np.array([1, 2]), np.array([0, 3, 3])]
    found = bm25(documents, queries, vocab_size=5)
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1 + 0.5 / 3.5)
    # Mean length 4: k1 (1 - b + b |d| / 4) is 1.2, 0.75 and 1.65.
    assert found[0, 0] == pytest.approx(rare * 2 * 2.2 / (2 + 1.2))
    assert found[1, 0] == pytest.approx(rare * 2.2 / (1 + 0.75))
    assert found[2, 0] == 0
    assert found[0, 1] == pytest.approx(common * 2.2 / (1 + 1.2))
    assert found[2, 1] == pytest.approx(common * 2.2 / (1 + 1.65) + 2 * rare * 5 * 2.2 / (5 + 1.65))


def test_tables_as_text_csv_and_markdown() -> None:
    cells = [
        ("words", "dot", Interval(0.5, 0.4, 0.61)),
        ("words", "adam", 1.0),
        ("letters", "dot", Interval(1.0, 1.0, 1.0)),
    ]
    table = pivot("AUC", "noise", cells)
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows[0] == {
        "noise": "words",
        "dot": "0.5",
        "dot_low": "0.4",
        "dot_high": "0.61",
        "adam": "1.0",
    }
    assert rows[1]["adam"] == ""
    assert table.text().splitlines()[2] == "words    0.500 [0.400, 0.610]  1.000"
    assert table.markdown().splitlines()[1] == "| --- | --- | --- |"
    assert Table("t", ["x"], [[math.nan]]).text().endswith("-")


def catalogue(path: Path, messages: list[str]) -> None:
    """A ``.mo`` file as msgfmt lays it out."""
    pairs = [
        ("", "Content-Type: text/plain; charset=UTF-8\n"),
        *((f"m{i:05}", m) for i, m in enumerate(messages)),
    ]
    blob, tables = b"", ([], [])  # type: ignore[var-annotated]
    start = 28 + 16 * len(pairs)
    for side in (0, 1):
        for pair in pairs:
            text = pair[side].encode()
            tables[side].append((len(text), start + len(blob)))
            blob += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    flat = [n for table in tables for entry in table for n in entry]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + struct.pack(f"<{len(flat)}I", *flat) + blob)


def test_a_gettext_catalogue_is_read_as_data(tmp_path: Path) -> None:
    import gettext

    path = tmp_path / "de" / "LC_MESSAGES" / "x.mo"
    messages = ["Die Datei »x« kann nicht geöffnet werden.", "eine\0viele"]
    catalogue(path, messages)
    with open(path, "rb") as handle:
        reference = gettext.GNUTranslations(handle)
    assert reference.gettext("m00000") == messages[0]
    assert read_catalogue(path) == [messages[0], "eine"]
    assert catalogue_text("de", tmp_path) is None, "one sentence is no language"
    catalogue(path, [f"Satz Nummer {i}, lang genug für einen richtigen Satz." for i in range(2000)])
    text = catalogue_text("de", tmp_path)
    assert text is not None
    assert len(text.splitlines()) == 2000
    path.write_bytes(b"no catalogue")
    with pytest.raises(DataError, match="is not a gettext catalogue"):
        read_catalogue(path)


def test_another_language_from_a_file_or_invented(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_text("gallia est omnis divisa in partes tres", encoding="utf-8")
    assert other_language("x", file) == ("language-latin", file.read_text(encoding="utf-8"))
    name, text = other_language("the ship sails over the sea", languages=("no-such",))
    assert name == "invented"
    assert len(text) == 200_000
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz ")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        other_language("x", tmp_path / "absent.txt")
