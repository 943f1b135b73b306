"""Every layout of a tokenizer's directory gives transformers' token ids, or is refused."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from hpcscale.data.tokenizer import fetch_tokenizer, load_tokenizer
from hpcscale.errors import DataError

transformers = pytest.importorskip("transformers")

TEXTS = [
    "The quick brown fox, it's 1234567 and don't. " * 3,
    "def add(a, b):\n    return a + b\n\n\tfor i in range(10):  pass\r\n",
    "Grüße, JÜRGEN! naïve café e\u0301 — 日本語のテキスト 🙂🙃 \u200b end",
    "  leading, trailing   ",
    " Hello <|endoftext|> [PAD] world",
    "plain",
]
BYTES = pre_tokenizers.ByteLevel.alphabet()


def byte_level(prefix=False, special=("<|endoftext|>",)) -> Tokenizer:
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=BYTES, special_tokens=list(special), show_progress=False
    )
    rust.train_from_iterator(TEXTS * 5, trainer)
    return rust


def sentencepiece_like() -> Tokenizer:
    """BPE as Llama's: a space is a character, unknown ones fall back to bytes."""
    rust = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special + fallback, show_progress=False
    )
    rust.train_from_iterator(["The quick brown fox, it's plain"], trainer)
    value = json.loads(rust.to_str())
    value["added_tokens"] = value["added_tokens"][: len(special)]
    return Tokenizer.from_str(json.dumps(value))


def word_piece(lowercase=True) -> Tokenizer:
    rust = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    rust.train_from_iterator(TEXTS * 5, trainer)
    return rust


def unigram() -> Tokenizer:
    rust = Tokenizer(models.Unigram())
    rust.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    rust.train_from_iterator(TEXTS * 5, trainer)
    return rust


def whole(folder: Path, rust: Tokenizer, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    return configured(folder, **settings)


def in_parts(folder: Path, rust: Tokenizer, **settings: object) -> Path:
    """GPT-2's older layout."""
    folder.mkdir(exist_ok=True)
    model = json.loads(rust.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return configured(folder, **settings)


def configured(folder: Path, **settings: object) -> Path:
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def edited(rust: Tokenizer, **changes: object) -> Tokenizer:
    value = json.loads(rust.to_str())
    value["model"] |= changes
    return Tokenizer.from_str(json.dumps(value))


def ids_of(theirs) -> list[list[int]]:
    return [
        theirs(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in TEXTS
    ]


def digits() -> Tokenizer:
    rust = byte_level()
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return rust


def with_added(lstrip: bool = False) -> Tokenizer:
    rust = byte_level()
    rust.add_special_tokens(["[PAD]"])
    rust.add_tokens([AddedToken("world", normalized=True), AddedToken("fox", lstrip=lstrip)])
    return rust


def with_limits() -> Tokenizer:
    rust = byte_level()
    rust.enable_truncation(4)
    rust.enable_padding(length=64, pad_id=0, pad_token="<|endoftext|>")
    return rust


def whole_words() -> Tokenizer:
    """A vocabulary with words that no merge makes, which ``ignore_merges`` finds."""
    vocab = json.loads(byte_level().to_str())["model"]["vocab"]
    return edited(byte_level(), ignore_merges=True, vocab=vocab | {"zebra": len(vocab)})


GPT2, FAST = {"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}
END = {"eos_token": "</s>"}
ACCEPTED = {
    "tokenizer.json alone": (whole, byte_level, {}),
    "a prefix space in tokenizer.json": (whole, lambda: byte_level(True), FAST),
    "a prefix space in both": (
        whole,
        lambda: byte_level(True),
        GPT2 | {"add_prefix_space": True},
    ),
    "a prefix space that the generic class ignores": (
        whole,
        byte_level,
        FAST | {"add_prefix_space": True},
    ),
    "GPT-2's class": (whole, byte_level, GPT2),
    "digits one by one": (whole, digits, FAST),
    "added tokens": (whole, with_added, FAST),
    "added tokens with GPT-2's class": (whole, with_added, GPT2),
    "an added token that takes the space before it": (whole, lambda: with_added(True), GPT2),
    "truncation and padding": (whole, with_limits, GPT2),
    "ignore_merges": (whole, whole_words, FAST),
    "bytes where a character is unknown": (whole, sentencepiece_like, FAST | END),
    "a WordPiece in lower case": (
        whole,
        word_piece,
        {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]"},
    ),
    "a Unigram": (whole, unigram, FAST | END),
    "a class that nobody knows": (whole, byte_level, {"tokenizer_class": "OurTokenizer"}),
    "a class of the repository's own code": (
        whole,
        byte_level,
        FAST | {"auto_map": {"AutoTokenizer": ["code.Slow", "code.Fast"]}},
    ),
    "parts": (in_parts, byte_level, GPT2),
    "parts with a prefix space": (in_parts, byte_level, GPT2 | {"add_prefix_space": True}),
    "parts with RoBERTa's class": (
        in_parts,
        lambda: byte_level(special=("<s>", "<pad>", "</s>", "<unk>")),
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True} | END,
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_token_ids_are_those_of_transformers(name, tmp_path):
    make, rust, settings = ACCEPTED[name]
    folder = make(tmp_path / "source", rust(), **settings)
    tokenizer = fetch_tokenizer(str(folder), None, tmp_path / "out")
    if "auto_map" in settings:
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    else:
        theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.encode_batch(TEXTS) == ids_of(theirs)
    # The copy in a run directory is all that later steps have.
    assert load_tokenizer(tmp_path / "out").encode_batch(TEXTS) == ids_of(theirs)


EXTRA = {
    "340": {
        "content": "fox",
        "special": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }
}
REFUSED = {
    "a prefix space in the settings of GPT-2's class": (
        whole,
        byte_level,
        GPT2 | {"add_prefix_space": True},
    ),
    "a prefix space that GPT-2's class drops": (whole, lambda: byte_level(True), GPT2),
    "digits that GPT-2's class joins": (whole, digits, GPT2),
    "whole words that GPT-2's class splits": (whole, whole_words, GPT2),
    "a normalizer of another class": (whole, byte_level, {"tokenizer_class": "GPTNeoXTokenizer"}),
    "a token that the settings add": (whole, byte_level, FAST | {"added_tokens_decoder": EXTRA}),
    "lower case in one of both": (
        whole,
        word_piece,
        {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "do_lower_case": False},
    ),
    "Llama's class on its former tokenizer.json": (
        whole,
        sentencepiece_like,
        {"tokenizer_class": "LlamaTokenizer"} | END,
    ),
    "parts of another class": (in_parts, byte_level, {"tokenizer_class": "Qwen2Tokenizer"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_two_readings_are_refused_until_one_is_chosen(name, tmp_path):
    make, rust, settings = REFUSED[name]
    folder = make(tmp_path / "source", rust(), **settings)
    with pytest.raises(DataError, match=r"reads '.*' as \[.*transformers as \[") as caught:
        fetch_tokenizer(str(folder), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "reading: transformers}" in str(caught.value)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    chosen = fetch_tokenizer(str(folder), None, tmp_path / "theirs", "transformers")
    assert chosen.encode_batch(TEXTS) == ids_of(theirs)
    assert load_tokenizer(tmp_path / "theirs").encode_batch(TEXTS) == ids_of(theirs)
    if make is not whole:
        with pytest.raises(DataError, match=r"reads '.*' as"):
            fetch_tokenizer(str(folder), None, tmp_path / "file", "file")
        return
    assert "`reading: file`" in str(caught.value)
    file = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    fetched = fetch_tokenizer(str(folder), None, tmp_path / "file", "file")
    assert fetched.encode_batch(TEXTS) == ids_of(file)
    assert (tmp_path / "file/tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()


def test_a_prefix_space_beside_the_parts_of_gpt2_is_read(shared_data, tmp_path):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / "gpt2-tokenizer" / name, folder / name)
    text = "Hello world, this is a small test of prefix spaces."
    plain = fetch_tokenizer(str(folder), None, tmp_path / "plain")
    assert plain.encode_batch(["Hello", " Hello"]) == [[15496], [18435]]
    # Of the same directory with the version before this one.
    assert plain.fingerprint() == "3f5d5d6358ba5a6c"
    configured(folder, **GPT2, add_prefix_space=True)
    spaced = fetch_tokenizer(str(folder), None, tmp_path / "spaced")
    assert spaced.encode_batch(["Hello", " Hello"]) == [[18435], [18435]]
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert spaced.encode_batch([text])[0] == theirs(text)["input_ids"]


def test_a_tokenizer_that_drops_merges_at_random_is_refused(tmp_path):
    folder = whole(tmp_path / "source", edited(byte_level(), dropout=0.1))
    with pytest.raises(DataError, match=r'dropout 0\.1.*"dropout": null'):
        fetch_tokenizer(str(folder), None, tmp_path / "out")


def test_parts_of_an_unknown_class_are_refused(tmp_path):
    folder = in_parts(tmp_path / "source", byte_level(), tokenizer_class="TheirOwnTokenizer")
    with pytest.raises(DataError, match="transformers cannot read the tokenizer"):
        fetch_tokenizer(str(folder), None, tmp_path / "out")


@pytest.mark.parametrize("file", ["vocab.txt", "spiece.model", "tokenizer.model"])
def test_other_layouts_are_refused_with_the_way_out(file, tmp_path):
    (tmp_path / file).write_text("[UNK]\n[SEP]\nthe\n")
    configured(tmp_path, tokenizer_class="BertTokenizer")
    with pytest.raises(DataError, match=r"has no tokenizer\.json; make one with .*save_pretrained"):
        fetch_tokenizer(str(tmp_path), None, tmp_path / "out")


def test_an_eos_token_outside_the_vocabulary_is_refused(tmp_path):
    folder = whole(tmp_path / "source", byte_level(), **FAST, eos_token="<gone>")
    with pytest.raises(DataError, match="names '<gone>' as its eos_token"):
        fetch_tokenizer(str(folder), None, tmp_path / "out")


def test_the_copy_ends_texts_as_its_source_does(tmp_path):
    rust = byte_level(special=("<s>", "<pad>", "</s>", "<|endoftext|>"))
    folder = whole(tmp_path / "source", rust, **FAST)
    (folder / "config.json").write_text('{"model_type": "opt", "eos_token_id": 2}')
    assert fetch_tokenizer(str(folder), None, tmp_path / "out").eot_id == 2
    assert load_tokenizer(tmp_path / "out").eot_id == 2
    (tmp_path / "out" / "source.json").unlink()
    assert load_tokenizer(tmp_path / "out").eot_id == 3


SPELLED = {
    "bytes": (byte_level, {}),
    "bytes with a prefix space": (lambda: byte_level(True), {}),
    "bytes with added tokens": (with_added, {}),
    "characters, else bytes": (sentencepiece_like, END),
}


@pytest.mark.parametrize("name", SPELLED)
def test_a_cut_text_has_the_bytes_of_its_tokens(name, tmp_path):
    rust, settings = SPELLED[name]
    tokenizer = load_tokenizer(whole(tmp_path / "source", rust(), **settings))
    for text in TEXTS:
        encoding = tokenizer.rust.encode(text, add_special_tokens=False)
        ids = [*encoding.ids, tokenizer.eot_id]
        n_bytes = len(text.encode())
        assert tokenizer.cut_bytes(ids, len(ids) - 1, n_bytes) == n_bytes
        for kept, (begin, end) in enumerate(encoding.offsets, start=1):
            size = tokenizer.cut_bytes(ids, kept, n_bytes)
            if kept == len(encoding) or encoding.offsets[kept][0] >= end:
                assert size == len(text[:end].encode()), (text, kept)
            else:  # in the middle of a character
                assert len(text[:begin].encode()) <= size < len(text[:end].encode())


def test_a_cut_text_that_was_changed_has_bytes_in_proportion(tmp_path):
    folder = whole(tmp_path / "source", word_piece(), eos_token="[SEP]")
    tokenizer = load_tokenizer(folder)
    text = "GRÜSSE, the quick   brown fox " * 20
    (ids,) = tokenizer.encode_batch([text])
    n_bytes = len(text.encode())
    assert tokenizer.cut_bytes(ids, len(ids), n_bytes) == n_bytes
    half = tokenizer.cut_bytes(ids, len(ids) // 2, n_bytes)
    assert abs(half / n_bytes - 0.5) < 0.02


def test_special_tokens_stand_for_no_text(tmp_path):
    tokenizer = load_tokenizer(whole(tmp_path / "source", with_added()))
    pad = tokenizer.rust.token_to_id("[PAD]")
    assert tokenizer.count_bytes([tokenizer.eot_id, pad]) == 0
    assert tokenizer.count_bytes([tokenizer.rust.token_to_id("world")]) == 5
