"""Tokenizers: train one, fetch one, and turn text into token ids.

Only the ``tokenizers`` library is used, because transformers takes seconds to import; fetching a
tokenizer checks that both give the same ids.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RustTokenizer

from hpcscale.atomic import atomic_directory, write_json
from hpcscale.config.fingerprint import fingerprint
from hpcscale.config.model import is_local
from hpcscale.data.end_of_text import (
    CONFIG,
    END_OF_TEXT,
    SOURCE,
    SPECIAL_TOKENS,
    adds_prefix_space,
    end_of_text,
)
from hpcscale.data.hub_tokenizer import download
from hpcscale.data.transformers_ids import check_ids, made_by_transformers
from hpcscale.errors import DataError

_CONFIGS = (CONFIG, SPECIAL_TOKENS)
_SPACE = "\u2581"  # how SentencePiece spells a space
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """Text to token ids. No special token is ever added, and none is recognised in the text: a
    document that spells out ``<|endoftext|>`` does not end there.
    """

    def __init__(self, rust: RustTokenizer, eot_id: int) -> None:
        rust.no_truncation()
        rust.no_padding()
        rust.encode_special_tokens = True
        self.rust = rust
        self.eot_id = eot_id
        self.vocab_size: int = max(rust.get_vocab(with_added_tokens=True).values()) + 1
        self._added: dict[int, AddedToken] = rust.get_added_tokens_decoder()
        self._decoder: str = "" if rust.decoder is None else rust.decoder.__getstate__().decode()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without end-of-text; uses the threads of ``use_threads``."""
        encodings = self.rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, special tokens included."""
        text: str = self.rust.decode([int(t) for t in tokens], skip_special_tokens=False)
        return text

    @property
    def added_tokens(self) -> list[str]:
        """Tokens that are found in text before the model of the tokenizer sees it."""
        return [token.content for token in self._added.values()]

    def count_bytes(self, tokens: Sequence[int]) -> int:
        """UTF-8 bytes of the text of ``tokens``; a special token has none.

        A part of a character counts its bytes.

        Where the tokenizer changes text (lower case, Unicode forms), these are bytes of the changed
        text.
        """
        text = [int(token) for token in tokens if not self._is_special(int(token))]
        if '"ByteLevel"' in self._decoder or _SPACE in self._decoder:
            return sum(map(self._bytes_of, text))
        return len(self.decode(text).encode())

    def cut_bytes(self, tokens: Sequence[int], kept: int, n_bytes: int) -> int:
        """UTF-8 bytes of the first ``kept`` of the ``tokens`` of a text of ``n_bytes``.

        Exact where the tokens decode to the text, in proportion where they decode to a changed one.
        """
        whole, part = self.count_bytes(tokens), self.count_bytes(tokens[:kept])
        if whole == n_bytes + 1 and part:  # a space before the text
            return part - 1
        return part if whole == n_bytes else round(n_bytes * part / max(1, whole))

    def _is_special(self, token: int) -> bool:
        return token == self.eot_id or (token in self._added and self._added[token].special)

    def _bytes_of(self, token: int) -> int:
        if token in self._added:
            return len(self._added[token].content.encode())
        spelled = self.rust.id_to_token(token) or ""
        if '"ByteLevel"' in self._decoder:  # one character a byte
            return len(spelled)
        if '"ByteFallback"' in self._decoder and _BYTE.fullmatch(spelled):
            return 1
        return len(spelled.replace(_SPACE, " ").encode())

    def fingerprint(self) -> str:
        """16 hexadecimal digits of what decides the ids."""
        return fingerprint({"tokenizer": json.loads(self.rust.to_str()), "eot": self.eot_id})


def use_threads(workers: int) -> None:
    """Let ``encode_batch`` use ``workers`` threads.

    The thread pool of the Rust library starts once per process: the first call decides.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, workers)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def train_tokenizer(texts: Iterable[str], vocabulary: int, out: Path) -> Tokenizer:
    """Train a byte-level BPE with ``vocabulary`` entries, ``<|endoftext|>`` the last, into ``out``.

    ``out`` becomes a directory that ``AutoTokenizer.from_pretrained`` reads. Raises DataError
    where the texts are too few for so many entries.
    """
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(texts, trainer)
    rust.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    size = rust.get_vocab_size(with_added_tokens=True)
    if size != vocabulary:
        raise DataError(
            f"the base corpus yields a vocabulary of {size}, not {vocabulary}; write "
            f"`tokenizer: {{train: {size}}}` or give `data.base` more tokens"
        )
    with atomic_directory(out) as directory:
        rust.save(str(directory / "tokenizer.json"))
        special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        write_json(
            directory / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", **special},
        )
    return load_tokenizer(out)


def fetch_tokenizer(
    source: str, revision: str | None, out: Path, reading: str | None = None
) -> Tokenizer:
    """Copy the tokenizer of a hub id or a local directory into ``out`` and load it.

    reading: "file" takes the ``tokenizer.json`` unchanged, "transformers" what transformers makes
    of the directory; by default, both have to give the same token ids.

    ``source.json`` in ``out`` records the commit that the hub resolved ``revision`` to, and the
    end of text, which the model's config.json may name. Raises DataError where there is none,
    where the hub cannot be reached, or where the two readings differ and none is chosen.
    """
    commit = None
    if is_local(source):
        folder = Path(os.path.expandvars(source)).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"tokenizer {source} is not a directory; give one with a tokenizer.json"
            )
    else:
        folder = download(source, revision)
        commit = folder.name
    with atomic_directory(out) as directory:
        whole = (folder / "tokenizer.json").is_file()
        if whole and reading != "transformers":
            shutil.copyfile(folder / "tokenizer.json", directory / "tokenizer.json")
        else:
            rust = _load(folder / "tokenizer.json") if whole else _from_vocabulary(folder, source)
            if reading == "transformers":
                rust = made_by_transformers(folder, source)
            rust.save(str(directory / "tokenizer.json"))
        for name in _CONFIGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, directory / name)
        rust, ends = _load(directory / "tokenizer.json"), end_of_text(folder)
        _refuse_dropout(rust, source)
        if reading != "file" or not whole:
            check_ids(Tokenizer(rust, ends.id), folder, source)
        record = {"source": source, "revision": revision, "commit": commit}
        write_json(directory / SOURCE, record | {"end_of_text": ends.plain()})
    return load_tokenizer(out)


def _refuse_dropout(rust: RustTokenizer, source: str) -> None:
    dropout = getattr(rust.model, "dropout", None)
    if dropout:
        raise DataError(
            f"tokenizer {source} drops merges at random (dropout {dropout}), so a text has no "
            'fixed token ids; set "dropout": null in its tokenizer.json'
        )


def _from_vocabulary(folder: Path, source: str) -> RustTokenizer:
    """GPT-2's older layout: a byte-level BPE as ``vocab.json`` and ``merges.txt``."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        raise DataError(
            f"tokenizer {source} has no tokenizer.json; make one with transformers: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(DIRECTORY)"
        )
    try:
        rust = RustTokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{vocab} and {merges} are not a tokenizer ({error})") from None
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_prefix_space(folder))
    rust.decoder = decoders.ByteLevel()
    if rust.token_to_id(END_OF_TEXT) is not None:
        rust.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return rust


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory with a ``tokenizer.json``.

    Raises DataError where the file is absent or broken, or no token ends a text.
    """
    directory = Path(directory)
    return Tokenizer(_load(directory / "tokenizer.json"), end_of_text(directory).id)


def _load(path: Path) -> RustTokenizer:
    if not path.is_file():
        raise DataError(f"{path} is missing; give a directory that holds a tokenizer.json")
    try:
        return RustTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is not a tokenizer ({error}); fetch it again") from None
