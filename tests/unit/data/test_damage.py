"""Files that are cut, damaged or of another encoding: refused as a whole, and by name."""

import gzip
import json
import lzma

import pytest

from hpcscale.config.data import CorpusConfig
from hpcscale.data.corpora import open_corpus
from hpcscale.data.fill_store import StoreFill
from hpcscale.data.report import ReadReport
from hpcscale.data.tokenizer import train_tokenizer
from hpcscale.errors import DataError

zstandard = pytest.importorskip("zstandard")


def lines_of(count: int, words: int = 30) -> bytes:
    return b"".join(
        json.dumps({"text": f"{i} " + " ".join(str(i * k) for k in range(words))}).encode() + b"\n"
        for i in range(count)
    )


def corpus_of(path, **fields):
    return open_corpus(CorpusConfig(corpus="files", path=(str(path),), **fields))


def read(path, **fields):
    report = ReadReport()
    return [d.text for d in corpus_of(path, **fields).documents(report)], report


def refused(path, **fields) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **fields)
    assert str(path) in str(caught.value)
    return str(caught.value)


COMPRESS = {"gz": gzip.compress, "zst": lambda data: zstandard.ZstdCompressor().compress(data)}


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_cut_archive_is_no_broken_record(tmp_path, kind):
    """Of 451 documents, a cut leaves some that are whole: far fewer than 1 % would be broken."""
    path = tmp_path / f"docs.jsonl.{kind}"
    whole = COMPRESS[kind](lines_of(451, words=300))
    path.write_bytes(whole)
    assert len(read(path)[0]) == 451
    path.write_bytes(whole[: len(whole) // 2])
    texts: list[str] = []
    with pytest.raises(DataError) as caught:
        texts.extend(document.text for document in corpus_of(path).documents(ReadReport()))
    assert 50 < len(texts) < 400
    assert str(caught.value).startswith(f"{path} is damaged or cut off: ")
    assert f"it can be read up to record {len(texts)}." in str(caught.value)
    assert str(caught.value).endswith("fetch it again, or leave it out of `path:`")
    reason = {"gz": "end-of-stream marker", "zst": "last zstandard frame is cut off"}[kind]
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("damage", ["none", "text", "garbage behind", "one byte", "a bit", "twice"])
def test_every_damage_of_an_archive_is_refused(tmp_path, kind, damage):
    path = tmp_path / f"docs.jsonl.{kind}"
    whole = COMPRESS[kind](lines_of(451))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    content, reason = {
        "none": (b"", "the file is empty"),
        "text": (lines_of(3), ""),
        "garbage behind": (whole + b"<html>", ""),
        "one byte": (whole + whole[:1], ""),
        "a bit": (bytes(flipped), ""),
        "twice": (COMPRESS[kind](whole), "data begins here, not text"),
    }[damage]
    if damage == "a bit" and kind == "zst":
        content = zstandard.ZstdCompressor(write_checksum=True).compress(lines_of(451))
        content = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(content)
    assert reason in refused(path)


def test_archives_of_nothing_and_padded_ones_are_whole(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines_of(2)) + bytes(512))  # as on a tape
    (tmp_path / "c.jsonl.zst").write_bytes(COMPRESS["zst"](b""))
    (tmp_path / "d.jsonl").write_bytes(b"")
    texts, report = read(tmp_path)
    assert (len(texts), report.broken) == (2, 0)


@pytest.mark.parametrize("kind", ["plain", *COMPRESS])
def test_a_last_line_that_ends_within_a_record_is_refused(tmp_path, kind):
    path = tmp_path / ("docs.jsonl" if kind == "plain" else f"docs.jsonl.{kind}")
    pack = COMPRESS.get(kind, bytes)
    whole = lines_of(451)
    path.write_bytes(pack(whole[:-1]))
    assert len(read(path)[0]) == 451  # only the last line's end is missing
    path.write_bytes(pack(whole[:-2]))
    message = refused(path)
    assert (
        "its last line has no newline and is not JSON; it can be read up to record 450." in message
    )
    path.write_bytes(pack(whole + b'{"text": "\xc3'))
    assert "up to record 451." in refused(path)
    path.write_bytes(pack(whole + b'{"text": "bad \xff byte"}'))  # whole, and one broken record
    texts, report = read(path)
    assert (len(texts), report.broken) == (451, 1)


POINTERS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
        "git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s31390--f50d7ac4.jsonl.gz\n", "git annex get"),
}


@pytest.mark.parametrize("pointer", POINTERS)
@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz", "json.zst", "parquet", "txt"])
def test_a_pointer_is_refused_with_the_command_that_fetches(tmp_path, end, pointer):
    path = tmp_path / f"docs.{end}"
    content, command = POINTERS[pointer]
    path.write_bytes(content)
    assert f"run `{command}`" in refused(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "txt"])
def test_utf_16_and_32_are_refused_with_what_converts_them(tmp_path, kind, encoding):
    """50 lines of which json.loads would guess 48 right and lose two."""
    path = tmp_path / f"docs.{kind}"
    text = "".join(f'{{"text": "Zeile {i} über Ċ"}}\n' for i in range(50))
    pack = COMPRESS.get(kind.rpartition(".")[2], bytes)
    path.write_bytes(pack(text.encode(encoding)))
    command = f"iconv -f {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')} -t UTF-8"
    assert command in refused(path)
    path.write_bytes(pack(("\n" + text).encode(encoding)))
    assert "iconv -f UTF-" in refused(path)
    path.write_bytes(pack(text.encode()))
    texts, report = read(path)
    assert len(texts) == (1 if kind == "txt" else 50)
    assert report.broken == 0


def test_a_mark_is_no_part_of_the_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"some text")
    (tmp_path / "b.txt").write_bytes(mark + b" \n")
    line = b'{"text": "line"}\r\n'
    (tmp_path / "c.jsonl").write_bytes(mark + line)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(mark + line) + gzip.compress(mark + line))
    (tmp_path / "e.jsonl.zst").write_bytes(COMPRESS["zst"](mark + line + mark + b"\r\n"))
    texts, report = read(tmp_path)
    assert texts == ["some text", "line", "line", "line", "line"]
    assert (report.broken, report.empty) == (0, 1)


def test_only_the_key_of_marked_texts_changes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n')
    plain = corpus_of(tmp_path).fingerprint()
    assert set(plain) == {"corpus", "text", "domain", "files"}
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbftext")
    assert corpus_of(tmp_path).fingerprint()["byte_order_mark"] == "removed"


def test_other_signs_of_a_wrong_file_are_refused(tmp_path):
    path = tmp_path / "docs.jsonl"
    for content, message in [
        (gzip.compress(lines_of(9)), "gzip data begins here"),
        (lzma.compress(lines_of(9)), "xz data begins here"),
        (
            lines_of(3) + bytes(4096) + lines_of(3),
            "it has zero bytes in place of text; it can be read up to record 3.",
        ),
        (lines_of(2) + b'{"text": "' + bytes(64) + b'"}\n' + lines_of(3), "read up to record 2."),
        (lines_of(2) + b'[{"text": "a"}, {"text": "b"}]\n', ":3: one line holds an array of 2"),
        (lines_of(3).replace(b"\n", b"\r"), "its last line has no newline"),
    ]:
        path.write_bytes(content)
        assert message in refused(path)
    path = tmp_path / "text.txt"
    path.write_bytes("für".encode()[:2])
    assert "within a character of UTF-8" in refused(path)
    path.write_bytes(b"text" + bytes(512))
    assert "it has zero bytes in place of text" in refused(path)


def test_records_that_were_broken_before_are_still_only_that(tmp_path):
    """What json.loads takes from bytes, half surrogates in other fields too, is taken as before."""
    path = tmp_path / "docs.jsonl"
    good = b'{"text": "a", "url": "\xed\xa0\x80"}\n{"text": "b"}\n'
    bad = b'{"text": "\xed\xa0\x80"}\n{"text": "nul \x00 in it"}\n{"text": "\xff"}\n1.5e\n'
    path.write_bytes(good + bad + b'{"text": "c"}\n')
    texts, report = read(path)
    assert (texts, report.broken) == (["a", "b", "c"], 4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [json.loads(line)["text"] for line in lines_of(50).splitlines()]
    return train_tokenizer(texts, 300, tmp_path_factory.mktemp("t") / "bpe")


def test_damage_reaches_the_caller_from_the_reading_thread_unless_never_read(tmp_path, tokenizer):
    """A shuffled corpus may stop before the damage; one that is read whole may not."""
    import numpy as np

    path = tmp_path / "c4-train.00000-of-00001.json.gz"
    whole = gzip.compress(lines_of(8_000), 1)
    path.write_bytes(whole[:-100])

    def take(corpus: str, tokens: int):
        spec = CorpusConfig(corpus=corpus, path=(str(path),), tokens=tokens)
        none = np.empty(0, dtype=np.uint64)
        fill = StoreFill(open_corpus(spec), (0.0, 1.0), none, tokenizer, None)
        taken = 0
        for item in fill.documents(tmp_path / "spool"):
            taken += len(item.tokens)
            if taken >= tokens:
                break
        return taken

    assert take("c4", 1000) >= 1000
    for corpus, tokens in (("files", 1000), ("c4", 1 << 40)):
        with pytest.raises(DataError, match=r"00001\.json\.gz is damaged or cut off"):
            take(corpus, tokens)
