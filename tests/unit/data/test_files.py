"""Local files, written here by gzip, zstandard and pyarrow themselves."""

import gzip
import json
from pathlib import Path

import pytest

from hpcscale.config.data import CorpusConfig
from hpcscale.data.corpora import open_corpus
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

RECORDS = [
    {"text": "plain text", "domain": "news", "url": "x"},
    {"text": "Grüße 日本 🙂\nsecond line", "domain": "wiki"},
    {"text": "no label"},
    {"text": "a number for a label", "domain": 7},
]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in RECORDS).encode()
EXPECTED = [
    ("plain text", "news"),
    ("Grüße 日本 🙂\nsecond line", "wiki"),
    ("no label", "unlabelled"),
    ("a number for a label", "7"),
]


def read(*patterns: object, **fields: str):
    report = ReadReport()
    spec = CorpusConfig(corpus="files", path=tuple(map(str, patterns)), **fields)
    documents = list(open_corpus(spec).documents(report))
    return documents, report


def write_zstd(path: Path, *frames: bytes) -> None:
    zstandard = pytest.importorskip("zstandard")
    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(frame) for frame in frames))


def write_parquet(path: Path, **columns: list) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json.gz", "jsonl.zst"])
def test_every_kind_of_json_lines_gives_the_same_documents(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        path.write_bytes(LINES)
    elif kind.endswith("gz"):
        # Two members one after the other are one gzip file.
        half = LINES.index(b"\n") + 1
        path.write_bytes(gzip.compress(LINES[:half]) + gzip.compress(LINES[half:]))
    else:
        write_zstd(path, LINES[:40], LINES[40:])
    documents, report = read(path)
    assert [(d.text, d.domain) for d in documents] == EXPECTED
    assert [d.place for d in documents] == [f"{path}:{n}" for n in (1, 2, 3, 4)]
    assert (report.documents, report.broken) == (4, 0)


def test_large_zstandard_file_crosses_chunks(tmp_path):
    lines = [json.dumps({"text": f"{i} " + "word " * 50}) for i in range(20_000)]
    write_zstd(tmp_path / "big.jsonl.zst", *("\n".join(lines) + "\n").encode().split(b"4321"))
    path = tmp_path / "whole.jsonl.zst"
    write_zstd(path, ("\n".join(lines) + "\n").encode())
    documents, _ = read(path)
    assert [json.dumps({"text": d.text}) for d in documents] == lines


def test_parquet_with_other_columns_and_field_names(tmp_path):
    path = tmp_path / "data.parquet"
    write_parquet(path, body=["one", None, "three"], kind=["a", "b", None], n=[1, 2, 3])
    documents, report = read(path, text="body", domain="kind")
    assert [(d.text, d.domain) for d in documents] == [("one", "a"), ("three", "unlabelled")]
    assert report.first_broken == [
        {"place": f"{path}:2", "reason": "field 'body' is NoneType, not text"}
    ]
    with pytest.raises(DataError, match="no column 'text'; set `text:` to one of body, kind, n"):
        read(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"data\.parquet is damaged .*cannot be read as parquet"):
        read(path, text="body")


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes("Zeile eins\r\nZeile zwei — ü\n".encode())
    (tmp_path / "b.txt").write_bytes("für alle\n".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes(b" \n")
    documents, report = read(tmp_path)
    assert [d.text for d in documents] == ["Zeile eins\r\nZeile zwei — ü\n"]
    assert (report.documents, report.broken, report.empty) == (2, 1, 1)
    assert report.first_broken[0]["reason"] == "not UTF-8 at byte 1"


def test_broken_records_are_counted_with_file_line_and_reason(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n'
        b'{"text": "cut off\n'
        b"\n"
        b'{"body": "no text", "url": "u"}\n'
        b'{"text": 5}\n'
        b'{"text": "bad \xff byte"}\n'
        b'["a list"]\n'
        b'{"text": "half \\ud83d pair"}\n'
        b'{"text": "  \\n "}\n'
        b'{"text": "x", "domain": ["a"]}\n'
        b'{"text": "last, without a newline"}'
    )
    documents, report = read(path)
    assert [d.text for d in documents] == ["good", "last, without a newline"]
    assert (report.documents, report.empty, report.broken) == (3, 1, 7)
    found = {b["place"].rsplit(":", 1)[1]: b["reason"] for b in report.first_broken}
    assert list(found) == ["2", "4", "5", "6", "7", "8", "10"]
    assert found["2"].startswith("not JSON: ")
    assert found["4"] == "no field 'text'; its fields: body, url"
    assert found["5"] == "field 'text' is int, not text"
    assert found["6"] == "not UTF-8"
    assert found["7"] == "a JSON list, not an object"
    assert "surrogate" in found["8"]
    assert found["10"] == "field 'domain' is list, not a name"
    report.check(max_broken=0.7)
    with pytest.raises(
        DataError, match=r"7 of 10 records .*70\.00%.*69\.00%.*data\.jsonl:2: not J"
    ):
        report.check(max_broken=0.69)


def test_only_the_first_twenty_places_are_kept(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("nonsense\n" * 50)
    _, report = read(path)
    assert report.broken == 50
    assert [b["place"] for b in report.first_broken] == [f"{path}:{n}" for n in range(1, 21)]
    with pytest.raises(DataError, match="and 47 more"):
        report.check(0.5)


def test_real_books(shared_data):
    documents, report = read(shared_data / "books" / "train.jsonl.gz")
    assert (len(documents), report.broken, report.empty) == (1306, 0, 0)
    assert {d.domain for d in documents} == {"travel", "music", "drill", "novel"}
