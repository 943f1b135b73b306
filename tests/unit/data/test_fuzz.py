"""Every reader against documents that hypothesis makes up: what is written is read or counted.

What a cut file can promise, by format, where the cut leaves the first n bytes:

- ``.jsonl``: a cut within a record is refused. A cut between two records, before the end of line
  or behind it, leaves a file that nobody can tell from a whole one: its documents are a prefix.
- ``.jsonl.gz``, ``.jsonl.zst``: a cut within a member (frame) is refused, and so is an empty
  file. Members know nothing of each other: a cut between two is a cut of the text in them.
- ``.parquet``: the index stands at the end, so every cut is refused.
- ``.txt``: the file is the record. A cut within a character is refused; every other leaves a
  shorter document.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest

from hpcscale.data.files import read_file
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

pytest.importorskip("hypothesis")
zstandard = pytest.importorskip("zstandard")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

MARK = b"\xef\xbb\xbf"
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
SPACES = st.text(st.sampled_from(" \t\n\r\u3000\x85"), max_size=3)
DOMAINS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5), st.integers())
BROKEN = [
    b'{"text": "cut',
    b"nonsense",
    b'["a", "b"]',
    b'{"text": 5}',
    b'{"body": "x"}',
    b"\xc3(",
    b'{"text": null}',
    b'{"text": "\xff"}',
    b'{"text": "\\ud83d"}',
    b"{:}",
    b'{"text": "x", "domain": [1]}',
]
#: Those of them that are whole values of JSON in UTF-8, or would be but for a byte.
WHOLE = [line for line in BROKEN if line.startswith((b'{"', b"[")) and line[-1:] in b"}]"]
EXAMPLES = settings(max_examples=60, deadline=None, database=None, derandomize=True)

Found = tuple[list[tuple[str, str]], int, int]


@dataclass(frozen=True)
class Line:
    """One line of a file, and the document that it holds or how it is counted."""

    content: bytes
    document: tuple[str, str] | None = None
    broken: int = 0
    empty: int = 0


@st.composite
def record_lines(draw: st.DrawFn) -> Line:
    text, domain = draw(st.one_of(TEXTS, SPACES)), draw(DOMAINS)
    fields: list[tuple[str, object]] = [("text", text), ("url", draw(TEXTS))]
    if domain is not None or draw(st.booleans()):
        fields.append(("domain", domain))
    record = dict(draw(st.permutations(fields)))
    content = json.dumps(record, ensure_ascii=draw(st.booleans())).encode()
    if not text.strip():
        return Line(content, empty=1)
    return Line(content, (text, "unlabelled" if domain is None else str(domain)))


LINES = st.lists(
    st.one_of(
        record_lines(),
        st.sampled_from([b"", b" ", b"\t "]).map(Line),
        st.sampled_from(BROKEN).map(lambda content: Line(content, broken=1)),
    ),
    max_size=8,
)


@dataclass(frozen=True)
class Text:
    """Lines of JSON as bytes behind a mark of ``begin`` bytes, and where each begins and ends."""

    lines: list[Line]
    begin: int
    content: bytes
    spans: list[tuple[int, int]]

    def found(self, length: int) -> Found | None:
        """What the first ``length`` bytes hold; None where they end within a record or the mark."""
        documents: list[tuple[str, str]] = []
        broken = empty = 0
        if 0 < length < self.begin:
            return None
        for line, (begin, end) in zip(self.lines, self.spans, strict=True):
            if not line.content[: max(0, length - begin)].strip():
                continue
            ended = b"\n" in self.content[end:length]
            if length < end or (line.broken and not ended and line.content not in WHOLE):
                return None
            documents += [line.document] if line.document else []
            broken, empty = broken + line.broken, empty + line.empty
        return documents, broken, empty


@st.composite
def json_texts(draw: st.DrawFn) -> Text:
    lines, spans, mark = draw(LINES), [], draw(st.sampled_from([b"", MARK]))
    content = mark
    for line in lines:
        spans.append((len(content), len(content) + len(line.content)))
        content += line.content + draw(st.sampled_from([b"\n", b"\r\n"]))
    if lines and draw(st.booleans()):
        content = content[: spans[-1][1]]
    return Text(lines, len(mark), content, spans)


@st.composite
def parts_of(draw: st.DrawFn, content: bytes) -> list[bytes]:
    """``content`` in one to four pieces, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=3)))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(path: Path, content: bytes | None = None) -> Found | None:
    """Documents, broken and empty records of a file; None where it is refused by its name."""
    if content is not None:
        path.write_bytes(content)
    report = ReadReport()
    try:
        documents = [(d.text, d.domain) for d in read_file(path, "text", "domain", report)]
    except DataError as error:
        return None if str(path) in str(error) else pytest.fail(str(error))
    assert report.documents == len(documents) + report.empty
    return documents, report.broken, report.empty


def pack(part: bytes, kind: str) -> bytes:
    if kind == "gz":
        return gzip.compress(part, 1)
    return bytes(zstandard.ZstdCompressor(level=1).compress(part))


@EXAMPLES
@given(data=st.data(), text=json_texts())
@pytest.mark.parametrize("kind", ["plain", "gz", "zst"])
def test_json_lines_whole_and_cut(folder: Path, kind: str, text: Text, data: st.DataObject) -> None:
    size = len(text.content)
    if kind == "plain":
        path = folder / "docs.jsonl"
        assert read(path, text.content) == text.found(size)
        for length in cuts_of(data, size):
            assert read(path, text.content[:length]) == text.found(length)
        return
    path = folder / f"docs.jsonl.{kind}"
    parts = data.draw(parts_of(text.content))
    packed = [pack(part, kind) for part in parts]
    whole = b"".join(packed)
    assert read(path, whole) == text.found(size)
    boundaries = dict(zip(accumulate(map(len, packed)), accumulate(map(len, parts)), strict=True))
    for length in cuts_of(data, len(whole), boundaries):
        expected = text.found(boundaries[length]) if length in boundaries else None
        assert read(path, whole[:length]) == expected


def cuts_of(data: st.DataObject, size: int, always: dict[int, int] | None = None) -> set[int]:
    drawn = data.draw(st.lists(st.integers(0, max(0, size - 1)), max_size=8))
    near = {cut + by for cut in always or () for by in (-1, 0, 1)}
    return {cut for cut in {0, size - 1, *drawn, *near} if 0 <= cut < size}


@EXAMPLES
@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), TEXTS, SPACES), DOMAINS), max_size=12),
    group=st.integers(1, 5),
    numbers=st.booleans(),
    domains=st.booleans(),
    data=st.data(),
)
def test_parquet_whole_and_cut(
    folder: Path,
    rows: list[tuple[str | None, object]],
    group: int,
    numbers: bool,
    domains: bool,
    data: st.DataObject,
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder / "docs.parquet"
    labels = [
        None if label is None else hash(label) % 1000 if numbers else str(label)
        for _, label in rows
    ]
    columns = {"text": pyarrow.array([text for text, _ in rows], pyarrow.string())}
    if domains:
        columns["domain"] = pyarrow.array(labels, pyarrow.int64() if numbers else pyarrow.string())
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    texts = [(text, label) for (text, _), label in zip(rows, labels, strict=True)]
    documents = [
        (text, str(label) if domains and label is not None else "unlabelled")
        for text, label in texts
        if text is not None and text.strip()
    ]
    broken = sum(text is None for text, _ in rows)
    assert read(path) == (documents, broken, len(rows) - broken - len(documents))
    whole = path.read_bytes()
    for length in cuts_of(data, len(whole)):
        assert read(path, whole[:length]) is None


@EXAMPLES
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")), mark=st.booleans())
def test_text_whole_and_cut(folder: Path, text: str, mark: bool) -> None:
    path = folder / "docs.txt"
    content = (MARK if mark else b"") + text.encode()
    shown = text if mark else text.removeprefix("\ufeff")

    def expected(value: str) -> Found:
        return ([(value, "unlabelled")], 0, 0) if value.strip() else ([], 0, 1)

    assert read(path, content) == expected(shown)
    begin = len(content) - len(shown.encode())
    left = {0: ""} | {begin + len(shown[:n].encode()): shown[:n] for n in range(len(shown))}
    for length in range(len(content)):
        cut = read(path, content[:length])
        assert cut == (expected(left[length]) if length in left else None)
