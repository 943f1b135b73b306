"""Stores built from real files, against counts and hashes taken by other means."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpcscale.config.data import CorpusConfig, DataConfig
from hpcscale.data.documents import text_id, unit_hash
from hpcscale.data.fill_store import read_ahead
from hpcscale.data.store import TokenStore, build_store
from hpcscale.data.tokenizer import fetch_tokenizer, train_tokenizer
from hpcscale.errors import DataError

WORDS = ["alpha", "beta", "gamma", "delta", "épsilon", "zeta", "eta", "theta", "kappa", "λ", "mu"]
ARRAY_NAMES = ["tokens.npy", "offsets.npy", "ids.npy", "domains.npy", "bytes.npy"]


def make_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{i} " + " ".join(rng.choice(WORDS, size=rng.integers(3, 60))) + "." for i in range(n)]


def write_jsonl(path, texts, domains=("x", "y", "z")):
    lines = [
        json.dumps({"text": text, "domain": domains[len(text) % len(domains)]}) for text in texts
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(make_texts(200), 320, tmp_path_factory.mktemp("t") / "bpe")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.jsonl"
    write_jsonl(path, make_texts(1000))
    return path


def spec_of(path, **fields):
    return CorpusConfig(corpus="files", path=(str(path),), **fields)


def build(spec, tokenizer, out, role="pool", hash_range=(0.0, 1.0), **options):
    manifest = build_store(spec, role, hash_range, tokenizer, out, **options)
    store = TokenStore.open(out, verify=True)
    assert store.manifest == manifest
    return store


def test_a_store_holds_every_document_with_its_end(source, tokenizer, tmp_path):
    store = build(spec_of(source), tokenizer, tmp_path / "store")
    texts = make_texts(1000)
    by_id = {int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big"): t for t in texts}
    assert set(store.ids.tolist()) == set(by_id)
    for i, identity in enumerate(store.ids.tolist()):
        text = by_id[identity]
        tokens = store.tokens(i).tolist()
        assert tokens[-1] == store.eot_id == tokenizer.eot_id
        assert store.eot_id not in tokens[:-1]
        assert tokenizer.decode(tokens[:-1]) == text
        assert store.bytes[i] == len(text.encode())
        assert store.domain_names[store.domains[i]] == "xyz"[len(text) % 3]
    assert store.n_documents == 1000
    assert store.n_tokens == store.lengths.sum() == store.offsets[-1]
    assert store.all_tokens.dtype == np.uint16


def test_manifest_counts_and_checksums(source, tokenizer, tmp_path):
    store = build(spec_of(source), tokenizer, tmp_path / "store")
    counts = store.manifest["counts"]
    assert counts["bytes"] == sum(len(t.encode()) for t in make_texts(1000))
    for key in ("documents", "tokens", "bytes"):
        assert sum(domain[key] for domain in counts["domains"].values()) == counts[key]
    assert set(store.manifest["sha256"]) == set(ARRAY_NAMES)
    for name, digest in store.manifest["sha256"].items():
        content = (tmp_path / "store" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        loaded = np.load(tmp_path / "store" / name, allow_pickle=False)
        assert loaded.ndim == 1
    assert store.manifest["tokenizer"]["fingerprint"] == tokenizer.fingerprint()
    [[name, digest]] = store.manifest["source"]["files"]
    assert (name, digest) == ("source.jsonl", hashlib.sha256(source.read_bytes()).hexdigest())
    assert store.manifest["read"]["documents"] == 1000
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == sorted(
        [*ARRAY_NAMES, "manifest.json"]
    )


def test_arrays_do_not_depend_on_how_files_are_cut_or_ordered(tokenizer, tmp_path):
    texts = make_texts(1000)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_jsonl(tmp_path / "a" / "all.jsonl", texts)
    for n in range(7):
        write_jsonl(tmp_path / "b" / f"{n}.jsonl", texts[::-1][n::7])
    for tokens in (None, 5000):
        stores = [
            build(spec_of(tmp_path / f, tokens=tokens), tokenizer, tmp_path / f"store-{f}")
            for f in "ab"
        ]
        assert stores[0].manifest["sha256"] == stores[1].manifest["sha256"]
        other = build(spec_of(tmp_path / "a", tokens=tokens, seed=1), tokenizer, tmp_path / "s")
        assert other.manifest["sha256"] != stores[0].manifest["sha256"]


def test_a_smaller_token_count_is_a_prefix_of_a_larger(source, tokenizer, tmp_path):
    # The one-pass choice against the whole store, which needs no choice.
    whole = build(spec_of(source), tokenizer, tmp_path / "whole")
    for tokens in (1, 100, 5000, 20_000, whole.n_tokens):
        part = build(spec_of(source, tokens=tokens), tokenizer, tmp_path / "part")
        n = part.n_documents
        assert part.ids.tolist() == whole.ids[:n].tolist()
        assert np.array_equal(part.all_tokens, whole.all_tokens[: part.n_tokens])
        assert part.n_tokens >= tokens > part.n_tokens - part.lengths[-1]


def test_a_cut_store_has_the_exact_count(source, tokenizer, tmp_path):
    whole = build(spec_of(source), tokenizer, tmp_path / "whole")
    texts = {text_id(t): t for t in make_texts(1000)}
    first = int(whole.lengths[0])
    for tokens in (1, first - 1, first, first + 1, 777):
        spec = spec_of(source, tokens=tokens)
        store = build(spec, tokenizer, tmp_path / "cut", role="eval", cut=True)
        assert store.n_tokens == tokens
        assert np.array_equal(store.all_tokens, whole.all_tokens[:tokens])
        last = store.tokens(store.n_documents - 1).tolist()
        text = texts[int(store.ids[-1])]
        if last[-1] == store.eot_id or len(last) == whole.lengths[store.n_documents - 1] - 1:
            assert store.bytes[-1] == len(text.encode())
        else:
            head = tokenizer.decode(last)
            if "\ufffd" not in head:
                assert store.bytes[-1] == len(head.encode())
            assert 0 < store.bytes[-1] < len(text.encode())


def test_roles_of_one_source_never_overlap(source, tokenizer, tmp_path):
    data = DataConfig(
        pool={"corpus": "files", "path": str(source)},
        eval={"corpus": "files", "path": str(source), "share": 0.2},
        query={"corpus": "files", "path": str(source)},
        base={"corpus": "files", "path": str(source)},
    )
    ranges = data.hash_ranges()
    found = {}
    for role, spec in data.roles().items():
        store = build(spec, tokenizer, tmp_path / role, role=role, hash_range=ranges[role])
        found[role] = set(store.ids.tolist())
        low, high = ranges[role]
        assert all(low <= unit_hash(i) < high for i in found[role])
    assert len(found["eval"]) == pytest.approx(200, abs=50)
    assert sum(map(len, found.values())) == 1000 == len(set().union(*found.values()))


def test_roles_of_different_sources_never_overlap_either(tokenizer, tmp_path):
    texts = make_texts(300)
    write_jsonl(tmp_path / "eval.jsonl", texts[:100])
    write_jsonl(tmp_path / "pool.jsonl", texts[50:])
    held_out = build(spec_of(tmp_path / "eval.jsonl"), tokenizer, tmp_path / "e", role="eval")
    pool = build(
        spec_of(tmp_path / "pool.jsonl"), tokenizer, tmp_path / "p", exclude=[tmp_path / "e"]
    )
    assert set(pool.ids.tolist()) == {text_id(t) for t in texts[100:]}
    assert pool.manifest["read"]["excluded"] == 50
    assert pool.manifest["taken"]["exclude"] == [
        {"role": "eval", "ids": held_out.manifest["sha256"]["ids.npy"]}
    ]


def test_each_text_is_taken_once_and_only_of_wanted_domains(tokenizer, tmp_path):
    texts = make_texts(100)
    path = tmp_path / "source.jsonl"
    write_jsonl(path, texts + texts[:30] + texts[:10])
    store = build(spec_of(path), tokenizer, tmp_path / "all")
    assert (store.n_documents, store.manifest["read"]["duplicates"]) == (100, 40)
    write_jsonl(path, texts)
    store = build(spec_of(path, domains=("y",)), tokenizer, tmp_path / "y")
    assert set(store.ids.tolist()) == {text_id(t) for t in texts if len(t) % 3 == 1}
    assert store.domain_names == ["y"]
    assert store.manifest["read"]["wrong_domain"] == 100 - store.n_documents


def test_c4_is_taken_as_it_comes_and_no_further_than_needed(tokenizer, tmp_path):
    texts = make_texts(6000)
    for shard in range(3):
        path = tmp_path / f"c4-train.{shard:05}-of-00003.jsonl"
        path.write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in texts[shard * 2000 :][:2000])
        )
    seen = []
    spec = CorpusConfig(corpus="c4", path=(str(tmp_path / "c4-*.jsonl"),), tokens=4000, seed=3)
    store = build(
        spec,
        tokenizer,
        tmp_path / "s",
        role="eval",
        cut=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert store.n_tokens == 4000
    assert seen[-1] == (4000, 4000)
    order = {text_id(t): i for i, t in enumerate(texts)}
    places = [order[i] for i in store.ids.tolist()]
    assert places == list(range(places[0], places[0] + len(places)))
    assert places[0] % 2000 == 0
    assert store.manifest["read"]["documents"] < 6000
    assert store.domain_names == ["c4"]


@pytest.mark.parametrize("role", ["eval", "query", "base"])
def test_too_few_tokens_name_wanted_and_found(source, tokenizer, tmp_path, role):
    found = build(spec_of(source), tokenizer, tmp_path / "all").n_tokens
    spec = spec_of(source, tokens=10**6)
    message = rf"{role} corpus `files` holds too few 1000000 tokens: {found} tokens in 1000 doc"
    with pytest.raises(DataError, match=message):
        build(spec, tokenizer, tmp_path / "out", role=role)
    assert not (tmp_path / "out").exists()
    pool = build(spec, tokenizer, tmp_path / "pool")
    assert pool.n_tokens == found
    assert pool.manifest["taken"]["wanted_tokens"] == 10**6
    with pytest.raises(DataError, match=r"too few documents of nowhere"):
        build(spec_of(source, domains=("nowhere",)), tokenizer, tmp_path / "out")


def test_too_many_broken_records_fail_the_build(source, tokenizer, tmp_path):
    with source.open("a") as handle:
        handle.write("broken\n" * 20)
    with pytest.raises(DataError, match=r"20 of 1020 records .*source\.jsonl:1001: not JSON"):
        build(spec_of(source), tokenizer, tmp_path / "out", max_broken=0.01)
    assert list(tmp_path.glob("*out*")) == []
    store = build(spec_of(source), tokenizer, tmp_path / "out", max_broken=0.02)
    assert store.manifest["read"]["broken"] == 20
    assert len(store.manifest["read"]["first_broken"]) == 20


def test_the_manifest_names_what_was_not_read(source, tokenizer, tmp_path):
    """Of 300 documents in three files, 100 are of a kind that is read."""
    for name in ("a.jsonl", "b.json", "c.jsonl.xz"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "folder" / name, make_texts(100, seed=len(name)))
    store = build(spec_of(tmp_path / "folder"), tokenizer, tmp_path / "store")
    assert store.n_documents == 100
    assert store.manifest["skipped"] == {".json": 1, ".jsonl.xz": 1}
    assert "skipped" not in build(spec_of(source), tokenizer, tmp_path / "whole").manifest


SCRIPT = """
import sys
from pathlib import Path
from hpcscale.config.data import CorpusConfig
from hpcscale.data.store import build_store
from hpcscale.data.tokenizer import load_tokenizer
source, tokenizer, out, workers, tokens = sys.argv[1:]
build_store(
    CorpusConfig(corpus="files", path=(source,), tokens=int(tokens)), "pool", (0.0, 1.0),
    load_tokenizer(Path(tokenizer)), Path(out), workers=int(workers),
    progress=lambda done, total: print(done, flush=True),
)
"""


def arguments(source, tokenizer, tmp_path, out, workers, tokens=30_000):
    directory = tmp_path / "tokenizer"
    directory.mkdir(exist_ok=True)
    tokenizer.rust.save(str(directory / "tokenizer.json"))
    values = [source, directory, tmp_path / out, workers, tokens]
    return [sys.executable, "-c", SCRIPT, *map(str, values)]


def test_bytes_on_disk_are_the_same_whatever_the_workers(tokenizer, tmp_path):
    path = tmp_path / "source.jsonl"
    write_jsonl(path, make_texts(9000))
    contents = []
    for workers in (1, 2, 5):
        out = f"store-{workers}"
        subprocess.run(arguments(path, tokenizer, tmp_path, out, workers), check=True)
        files = sorted((tmp_path / out).iterdir())
        contents.append({file.name: file.read_bytes() for file in files})
    assert contents[0] == contents[1] == contents[2]


def test_a_build_killed_in_the_middle_leaves_no_store(tokenizer, tmp_path):
    path = tmp_path / "source.jsonl"
    write_jsonl(path, make_texts(40_000))
    command = arguments(path, tokenizer, tmp_path, "store", 1, 10**7)
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 0  # the first batch is in
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match="is not a token store"):
        TokenStore.open(tmp_path / "store")
    write_jsonl(path, make_texts(1000))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert TokenStore.open(tmp_path / "store", verify=True).n_documents == 1000


def test_index_of_finds_ids_in_any_order(source, tokenizer, tmp_path):
    store = build(spec_of(source), tokenizer, tmp_path / "store")
    wanted = np.random.default_rng(0).integers(0, 1000, 300)
    assert np.array_equal(store.index_of(store.ids[wanted]), wanted)
    assert store.index_of(np.empty(0, dtype=np.uint64)).tolist() == []
    for unknown in (0, 12345, 2**64 - 1):
        ids = np.array([store.ids[3], unknown], dtype=np.uint64)
        with pytest.raises(DataError, match=f"1 of 2 document ids .* {unknown:016x}"):
            store.index_of(ids)


def test_damage_is_found(source, tokenizer, tmp_path):
    out = tmp_path / "store"
    build(spec_of(source), tokenizer, out)
    path = out / "tokens.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    TokenStore.open(out)
    with pytest.raises(DataError, match=r"tokens\.npy differs from its checksum"):
        TokenStore.open(out, verify=True)
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"tokens\.npy is damaged"):
        TokenStore.open(out)
    np.save(path, np.zeros(5, dtype=np.uint16))
    with pytest.raises(DataError, match=r"tokens\.npy has 5 entries"):
        TokenStore.open(out)
    np.save(path, np.zeros(5, dtype=np.float32))
    with pytest.raises(DataError, match=r"tokens\.npy holds float32"):
        TokenStore.open(out)
    path.unlink()
    with pytest.raises(DataError, match=r"tokens\.npy is missing"):
        TokenStore.open(out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(DataError, match="format 99"):
        TokenStore.open(out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        TokenStore.open(out)


def test_a_large_vocabulary_needs_four_bytes_a_token(make_store):
    store = make_store([[70_000, 1, 99_999], [5, 99_999]], eot=99_999, vocab=100_000)
    assert store.all_tokens.dtype == np.uint32
    assert store.tokens(0).tolist() == [70_000, 1, 99_999]
    assert make_store([[65_535]], eot=65_535, vocab=65_536).all_tokens.dtype == np.uint16


def test_an_error_in_the_reading_thread_reaches_the_caller():
    def items():
        yield from range(10)
        raise DataError("disk is gone")

    got = []
    with pytest.raises(DataError, match="disk is gone"):  # noqa: PT012 -- counts the items
        for item in read_ahead(items()):
            got.append(item)
    assert got == list(range(10))
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    reader = read_ahead(endless())
    assert next(reader) == 1
    begin = time.monotonic()
    reader.close()
    assert closed == [True]
    assert time.monotonic() - begin < 5


def test_books_with_the_real_gpt2_tokenizer(shared_data, tmp_path):
    tokenizer = fetch_tokenizer(str(shared_data / "gpt2-tokenizer"), None, tmp_path / "gpt2")
    books = shared_data / "books"
    held_out = build(
        spec_of(books / "validation.jsonl.gz"), tokenizer, tmp_path / "eval", role="eval"
    )
    pool = build(
        spec_of(books / "train.jsonl.gz"), tokenizer, tmp_path / "pool", exclude=[tmp_path / "eval"]
    )
    # The folder's README counts the tokens without end-of-text.
    assert held_out.n_tokens == 56_080 + 127
    assert pool.n_tokens == 567_337 + 1306
    assert pool.manifest["read"]["excluded"] == 0
    assert pool.domain_names == ["drill", "music", "novel", "travel"]
