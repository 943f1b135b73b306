"""Corpora: fingerprints that planning can afford, and C4 as a download and without a network."""

import gzip
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcscale.config.data import C4_REVISION, CorpusConfig
from hpcscale.data import corpora
from hpcscale.data.corpora import open_corpus
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError


def write_c4(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "http://x"}) + "\n"
        for text in texts
    ]
    path.write_bytes(gzip.compress("".join(lines).encode()))


@pytest.fixture
def download(tmp_path):
    """A clone of the repository's layout: variants as folders, shards of both splits."""
    root = tmp_path / "c4"
    for variant in ("en", "realnewslike"):
        for shard in range(3):
            name = f"c4-train.{shard:05}-of-00003.json.gz"
            write_c4(root / variant / name, [f"{variant} train {shard} {i}" for i in range(5)])
        name = "c4-validation.00000-of-00001.json.gz"
        write_c4(root / variant / name, [f"{variant} validation {i}" for i in range(5)])
    return root


def c4(path: Path | str, **fields) -> list[str]:
    report = ReadReport()
    corpus = open_corpus(CorpusConfig(corpus="c4", path=(str(path),), **fields))
    documents = list(corpus.documents(report))
    assert {d.domain for d in documents} == {"c4"}
    assert report.documents == len(documents)
    return [d.text for d in documents]


def test_a_clone_of_c4_gives_one_variant_and_one_split(download):
    texts = c4(download, split="validation")
    assert texts == [f"en validation {i}" for i in range(5)]
    expected = {f"en train {s} {i}" for s in range(3) for i in range(5)}
    assert set(c4(download)) == set(c4(download / "en")) == expected
    assert set(c4(download / "en" / "*.json.gz")) == expected
    assert c4(download, variant="realnewslike", split="validation")[0].startswith("realnews")


def test_the_seed_orders_the_files_of_a_download(download):
    orders = {tuple(t.split()[2] for t in c4(download, seed=seed)[::5]) for seed in range(40)}
    assert len(orders) == 6
    for seed in range(3):
        texts = c4(download, seed=seed)
        assert texts == c4(download, seed=seed)
        for begin in (0, 5, 10):  # whole files, each in its own order
            assert [t.split()[3] for t in texts[begin : begin + 5]] == list("01234")


def test_a_download_without_the_split_is_an_error(download):
    for file in download.rglob("c4-validation*"):
        file.unlink()
    with pytest.raises(DataError, match=r"no file of C4's validation split, variant en "):
        c4(download, split="validation")
    with pytest.raises(DataError, match=r"C4's train split, variant en\.noclean"):
        c4(download, variant="en.noclean")


def test_fingerprint_of_a_stream_is_its_pinned_revision():
    spec = CorpusConfig(corpus="c4", split="validation")
    assert open_corpus(spec).fingerprint() == {
        "corpus": "c4",
        "repository": "allenai/c4",
        "variant": "en",
        "split": "validation",
        "revision": C4_REVISION,
    }


@pytest.mark.parametrize("offline", ["flag", "network"])
def test_c4_without_a_network_says_what_to_do(tmp_path, offline):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline == "flag" else {"HF_ENDPOINT": endpoint}
    script = (
        "from hpcscale.data.corpora import *\n"
        "next(open_corpus(CorpusConfig(corpus='c4')).documents(ReadReport()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("hpcscale.errors.DataError: allenai/c4 cannot be read"), result.stderr
    assert "`hpcscale data prepare` on a node with a network" in last
    assert "`path:`" in last


def test_stdlib_fingerprint_is_the_python_version():
    fingerprint = open_corpus(CorpusConfig(corpus="stdlib")).fingerprint()
    assert platform.python_version() in fingerprint["python"]


def files(*paths: Path, **fields: str):
    return open_corpus(CorpusConfig(corpus="files", path=tuple(map(str, paths)), **fields))


def test_files_fingerprint_is_names_and_contents_not_places(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "b.txt").write_text("b")
        (tmp_path / folder / "a.jsonl").write_text('{"text": "a"}\n')
    first = files(tmp_path / "one").fingerprint()
    assert first["files"] == [
        ["a.jsonl", hashlib.sha256(b'{"text": "a"}\n').hexdigest()],
        ["sub/b.txt", hashlib.sha256(b"b").hexdigest()],
    ]
    assert json.loads(json.dumps(first)) == first
    assert files(tmp_path / "two").fingerprint() == first
    assert files(tmp_path / "two", text="body").fingerprint() != first
    (tmp_path / "two" / "sub" / "b.txt").write_text("c")
    assert files(tmp_path / "two").fingerprint() != first


def test_hash_cache_reads_only_what_changed(tmp_path, monkeypatch):
    cache = tmp_path / "hashes.json"
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(str(i))
    corpus = files(tmp_path)
    hashed = []
    real = corpora.sha256_file
    monkeypatch.setattr(corpora, "sha256_file", lambda p: (hashed.append(p.name), real(p))[1])
    first = corpus.fingerprint(cache)
    assert len(hashed) == 20
    assert corpus.fingerprint(cache) == first
    assert len(hashed) == 20
    (tmp_path / "7.txt").write_text("changed")
    assert corpus.fingerprint(cache) != first
    assert hashed[20:] == ["7.txt"]
    assert corpus.fingerprint(cache) == corpus.fingerprint()
    for rubbish in ("", "[1]", '{"' + str((tmp_path / "7.txt").resolve()) + '": 5}'):
        cache.write_text(rubbish)
        assert corpus.fingerprint(cache) == corpus.fingerprint()


def test_planning_imports_nothing_heavy(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    script = (
        "import sys; from hpcscale.data.corpora import *\n"
        f"for spec in ('stdlib', 'c4', {{'corpus': 'files', 'path': {str(tmp_path)!r}}}):\n"
        "    open_corpus(CorpusConfig.model_validate(spec)).fingerprint()\n"
        "heavy = {'datasets', 'torch', 'transformers', 'pyarrow', 'pandas', 'huggingface_hub',"
        " 'tokenizers'}\n"
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
