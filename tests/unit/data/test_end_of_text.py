"""Which token ends a text, from the files that real models come with."""

import json
from pathlib import Path

import pytest

from hpcscale.data.end_of_text import Vocabulary, end_of_text, former_end_of_text
from hpcscale.errors import DataError

WORDS = ["<s>", "<pad>", "</s>", "a", "b", "ab", "<|endoftext|>"]
PLAIN = ["a", "b", "ab", "<|endoftext|>"]


def tokenizer_json(words, added=(), merges=(("a", "b"),), kind="BPE") -> dict:
    vocab = {word: index for index, word in enumerate(words)}
    if kind == "Unigram":
        vocab = [[word, -1.0] for word in words]
    listed = [{"id": words.index(w), "content": w, "special": True} for w in added]
    return {"added_tokens": listed, "model": {"type": kind, "vocab": vocab, "merges": merges}}


def directory(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    return folder


OPT = tokenizer_json(WORDS, ("<s>", "<pad>", "</s>"))
EOS, MODEL, USUAL = "the tokenizer's eos_token", "eos_token_id of the model's config.json", "since"
CASES = {
    "its eos_token, though <|endoftext|> is there": (
        {"tokenizer.json": OPT, "tokenizer_config.json": {"eos_token": "</s>"}},
        "</s>",
        2,
        EOS,
    ),
    "an eos_token written as an object": (
        {"tokenizer.json": OPT, "special_tokens_map.json": {"eos_token": {"content": "</s>"}}},
        "</s>",
        2,
        EOS,
    ),
    "the older file, as transformers": (
        {
            "tokenizer.json": OPT,
            "tokenizer_config.json": {"eos_token": "<s>"},
            "special_tokens_map.json": {"eos_token": "</s>"},
        },
        "</s>",
        2,
        EOS,
    ),
    "the newer file where it lists the added tokens, as transformers": (
        {
            "tokenizer.json": OPT,
            "special_tokens_map.json": {"eos_token": "</s>"},
            "tokenizer_config.json": {"eos_token": "<s>", "added_tokens_decoder": {}},
        },
        "<s>",
        0,
        EOS,
    ),
    "the tokenizer before the model": (
        {
            "tokenizer.json": OPT,
            "tokenizer_config.json": {"eos_token": "</s>"},
            "config.json": {"eos_token_id": 0},
        },
        "</s>",
        2,
        EOS,
    ),
    "the model's": (
        {
            "tokenizer.json": OPT,
            "tokenizer_config.json": {"eos_token": None},
            "config.json": {"eos_token_id": 2},
        },
        "</s>",
        2,
        MODEL,
    ),
    "the first of the model's": (
        {"tokenizer.json": OPT, "config.json": {"eos_token_id": [2, 0]}},
        "</s>",
        2,
        MODEL,
    ),
    "the model's in GPT-2's older layout": (
        {
            "vocab.json": {w: i for i, w in enumerate(WORDS)},
            "merges.txt": "#version: 0.2\na b\n",
            "config.json": {"eos_token_id": 2},
        },
        "</s>",
        2,
        MODEL,
    ),
    "not a word that text gives": (
        {
            "vocab.json": {w: i for i, w in enumerate(WORDS)},
            "merges.txt": "#version: 0.2\na b\n",
            "config.json": {"eos_token_id": 5},
        },
        "<|endoftext|>",
        6,
        USUAL,
    ),
    "not a default beyond the vocabulary": (
        {
            "tokenizer.json": tokenizer_json(PLAIN, ("<|endoftext|>",)),
            "config.json": {"eos_token_id": 50256},
        },
        "<|endoftext|>",
        3,
        USUAL,
    ),
    "a piece of a Unigram": (
        {
            "tokenizer.json": tokenizer_json(["<unk>", "</s>", "a"], kind="Unigram"),
            "config.json": {"eos_token_id": 1},
        },
        "</s>",
        1,
        MODEL,
    ),
    "an escaped name": (
        {
            "tokenizer.json": tokenizer_json(["a", "<｜end▁of▁sentence｜>"]),
            "tokenizer_config.json": {"eos_token": "<｜end▁of▁sentence｜>"},
        },
        "<｜end▁of▁sentence｜>",
        1,
        EOS,
    ),
    "<|endoftext|> where nothing is named": (
        {"tokenizer.json": tokenizer_json(PLAIN)},
        "<|endoftext|>",
        3,
        USUAL,
    ),
    "what was recorded where it was fetched": (
        {
            "tokenizer.json": OPT,
            "source.json": {"end_of_text": {"token": "</s>", "id": 2, "origin": "recorded"}},
        },
        "</s>",
        2,
        "recorded",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_text_ends_with(name, tmp_path):
    files, token, identity, origin = CASES[name]
    found = end_of_text(directory(tmp_path, files))
    assert (found.token, found.id) == (token, identity)
    assert found.origin.startswith(origin)


def test_the_line_for_people(tmp_path):
    files = CASES["its eos_token, though <|endoftext|> is there"][0]
    found = end_of_text(directory(tmp_path, files))
    assert str(found) == "</s> (token 2), the tokenizer's eos_token"


def test_former_versions_preferred_end_of_text(tmp_path):
    files = CASES["its eos_token, though <|endoftext|> is there"][0]
    assert former_end_of_text(directory(tmp_path, files)) == "<|endoftext|>"
    assert former_end_of_text(directory(tmp_path, CASES["the model's"][0])) == "<|endoftext|>"
    files = {"tokenizer.json": tokenizer_json(["</s>", "a"])}
    files["tokenizer_config.json"] = {"eos_token": "</s>"}
    assert former_end_of_text(directory(tmp_path, files)) == "</s>"
    (tmp_path / "tokenizer_config.json").unlink()
    assert former_end_of_text(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": {"eos_token": "<gone>"}}, "names '<gone>' as its eos_token"),
        ({"config.json": {"eos_token_id": None}}, r"no eos_token .* tokenizer_config\.json"),
        ({"config.json": {"eos_token_id": 99}}, "no eos_token"),
        ({"tokenizer_config.json": "{"}, r"tokenizer_config\.json cannot be read"),
        ({"source.json": {"end_of_text": {"token": "b", "id": 0, "origin": ""}}}, "token 0"),
    ],
)
def test_none_that_is_known_is_refused(tmp_path, files, message):
    directory(tmp_path, {"tokenizer.json": tokenizer_json(["a", "b", "ab"])} | files)
    with pytest.raises(DataError, match=message):
        end_of_text(tmp_path)


def test_a_large_file_is_searched_and_not_parsed(tmp_path):
    words = [f"word{i}" for i in range(300_000)]
    content = tokenizer_json([*words, "</s>"], merges=[["a", "b"]] * 300_000)
    content["added_tokens"] = [{"id": 300_000, "content": "</s>", "special": True}]
    directory(tmp_path, {"tokenizer.json": content})
    vocabulary = Vocabulary(tmp_path)
    assert vocabulary.id_of("</s>") == 300_000
    assert vocabulary.id_of("<|endoftext|>") is None
    assert "_model" not in vocabulary.__dict__
    assert vocabulary.id_of("word7") == 7


def test_the_real_gpt2_keeps_its_end_of_text(shared_data):
    found = end_of_text(shared_data / "gpt2-tokenizer")
    assert (found.token, found.id) == ("<|endoftext|>", 50256)
    assert former_end_of_text(shared_data / "gpt2-tokenizer") == found.token
