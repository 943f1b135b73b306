"""Our tokenizer against transformers' AutoTokenizer on the same directory."""

import gzip
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcscale.data.tokenizer import fetch_tokenizer, load_tokenizer, train_tokenizer
from hpcscale.errors import DataError

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3,
    "def add(a, b):\n    return a + b\n\n\tfor i in range(10):  pass",
    "Grüße, Jürgen! naïve café — 日本語のテキスト 🙂🙃 \u200b end",
    "  leading, trailing   ",
    "",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer") / "bpe"
    return train_tokenizer(TEXTS * 5, 300, out), out


def auto(directory: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(directory))


def test_trained_vocabulary_has_the_asked_size_and_ends_with_end_of_text(trained):
    tokenizer, out = trained
    assert tokenizer.vocab_size == 300
    assert tokenizer.eot_id == 299
    saved = json.loads((out / "tokenizer.json").read_text())
    assert len(saved["model"]["vocab"]) == 299
    assert sorted(saved["model"]["vocab"].values()) == list(range(299))


def test_auto_tokenizer_reads_the_saved_directory_alike(trained):
    tokenizer, out = trained
    theirs = auto(out)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == tokenizer.eot_id
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_training_is_deterministic(trained, tmp_path):
    tokenizer, out = trained
    again = train_tokenizer(iter(TEXTS * 5), 300, tmp_path / "again")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (out / "tokenizer.json").read_bytes()
    script = (
        "import sys; from pathlib import Path; from hpcscale.data.tokenizer import *; import json;"
        "use_threads(int(sys.argv[1])); texts = json.load(sys.stdin);"
        "print(train_tokenizer(texts * 5, 300, Path(sys.argv[2])).fingerprint())"
    )
    for workers in ("1", "3"):
        result = subprocess.run(
            [sys.executable, "-c", script, workers, str(tmp_path / workers)],
            input=json.dumps(TEXTS),
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == tokenizer.fingerprint()


def test_too_little_text_names_the_size_that_fits(tmp_path):
    with pytest.raises(DataError, match=r"vocabulary of (\d+), not 5000") as caught:
        train_tokenizer(TEXTS, 5000, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fits = int(re.search(r"vocabulary of (\d+)", str(caught.value))[1])
    assert train_tokenizer(TEXTS, fits, tmp_path / "out").vocab_size == fits


def test_end_of_text_in_a_document_is_plain_text(trained):
    tokenizer, _ = trained
    (ids,) = tokenizer.encode_batch(["before <|endoftext|> after"])
    assert tokenizer.eot_id not in ids
    assert tokenizer.decode(ids) == "before <|endoftext|> after"


def test_bytes_of_tokens_add_up_to_the_text(trained):
    tokenizer, _ = trained
    for text in TEXTS:
        (ids,) = tokenizer.encode_batch([text])
        sizes = [tokenizer.count_bytes(ids[:n]) for n in range(len(ids) + 1)]
        assert sizes[0] == 0
        assert sizes[-1] == len(text.encode())
        for n, size in enumerate(sizes):
            head = tokenizer.decode(ids[:n])
            if "\ufffd" not in head:  # not in the middle of a character
                assert size == len(head.encode())
        assert sizes == sorted(set(sizes))


def test_real_gpt2_tokenizer(shared_data, tmp_path):
    folder = shared_data / "gpt2-tokenizer"
    tokenizer = fetch_tokenizer(str(folder), None, tmp_path / "gpt2")
    theirs = auto(folder)
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    assert len(theirs) == 50257
    with gzip.open(shared_data / "books" / "validation.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines] + TEXTS
    ours = tokenizer.encode_batch(texts)
    assert ours == theirs(texts, add_special_tokens=False)["input_ids"]
    # The folder's README counts the same text with GPT-2.
    assert sum(map(len, ours[: -len(TEXTS)])) == 56_080


def test_vocab_and_merges_alone_give_the_same_tokenizer(shared_data, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / "gpt2-tokenizer" / name, folder / name)
    tokenizer = fetch_tokenizer(str(folder), None, tmp_path / "out")
    assert tokenizer.vocab_size == 50257
    expected = load_tokenizer(shared_data / "gpt2-tokenizer").encode_batch(TEXTS)
    assert tokenizer.encode_batch(TEXTS) == expected
    theirs = auto(tmp_path / "out")
    assert [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == expected


def test_other_tokenizers_end_texts_with_their_eos_token(trained, tmp_path):
    _, out = trained
    content = (out / "tokenizer.json").read_text().replace("<|endoftext|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"no eos_token .* tokenizer_config\.json"):
        load_tokenizer(tmp_path)
    for eos in ("</s>", {"content": "</s>", "lstrip": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        assert load_tokenizer(tmp_path).eot_id == 299


def test_truncation_and_padding_of_a_file_are_dropped(trained, tmp_path):
    tokenizer, out = trained
    value = json.loads((out / "tokenizer.json").read_text())
    value["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert loaded.fingerprint() == tokenizer.fingerprint()


def test_wrong_directories_name_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="is not a directory"):
        fetch_tokenizer("./nowhere", None, tmp_path / "out")
    with pytest.raises(DataError, match="neither a directory here nor a repository"):
        fetch_tokenizer("three/part/name", None, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="save_pretrained"):
        fetch_tokenizer(str(tmp_path / "empty"), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def hub_script(out: Path) -> str:
    return (
        "import sys; from pathlib import Path; from hpcscale.data.tokenizer import *\n"
        f"t = fetch_tokenizer('gpt2', sys.argv[1] if sys.argv[1:] else None, Path({str(out)!r}))\n"
        "print(t.vocab_size)"
    )


def test_hub_tokenizer_comes_from_the_cache_with_its_commit(trained, tmp_path, monkeypatch):
    _, out = trained
    commit = hashlib.sha1(b"commit").hexdigest()
    repository = tmp_path / "hub" / "models--gpt2"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(out / name, snapshot / name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = subprocess.run(
        [sys.executable, "-c", hub_script(tmp_path / "out"), "main"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "300", result.stderr
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    ends = {"token": "<|endoftext|>", "id": 299, "origin": "the tokenizer's eos_token"}
    assert record == {
        "source": "gpt2",
        "revision": "main",
        "commit": commit,
        "end_of_text": ends,
    }


@pytest.mark.parametrize("offline", ["flag", "network"])
def test_unreachable_hub_says_what_to_do(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    if offline == "flag":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
    result = subprocess.run(
        [sys.executable, "-c", hub_script(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("hpcscale.errors.DataError: tokenizer 'gpt2'")
    assert "hpcscale data prepare" in last
    assert not (tmp_path / "out").exists()


def test_importing_the_tokenizer_imports_no_heavy_library():
    script = (
        "import sys, hpcscale.data.tokenizer;"
        "print({'torch', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
