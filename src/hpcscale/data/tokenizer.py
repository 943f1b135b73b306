"""Tokenizers: train one, fetch one, and turn text into token ids.

Only the ``tokenizers`` library is used: transformers reads the same ``tokenizer.json`` and gives
the same ids, and takes seconds to import.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RustTokenizer

from hpcscale.atomic import atomic_directory, write_json
from hpcscale.config.fingerprint import fingerprint
from hpcscale.config.model import is_local
from hpcscale.errors import DataError

END_OF_TEXT = "<|endoftext|>"
#: Where a tokenizer directory came from: source, revision asked for, commit found.
SOURCE = "source.json"
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
_FILES = ("tokenizer.json", *_CONFIGS, "vocab.json", "merges.txt")


class Tokenizer:
    """Text to token ids. No special token is ever added, and none is read out of the text: a
    document that spells out ``<|endoftext|>`` does not end there."""

    def __init__(self, rust: RustTokenizer, eot_id: int) -> None:
        rust.no_truncation()
        rust.no_padding()
        rust.encode_special_tokens = True
        self.rust = rust
        self.eot_id = eot_id
        self.vocab_size: int = max(rust.get_vocab(with_added_tokens=True).values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without end-of-text; uses the threads of ``use_threads``."""
        encodings = self.rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, special tokens included."""
        text: str = self.rust.decode([int(t) for t in tokens], skip_special_tokens=False)
        return text

    def count_bytes(self, tokens: Sequence[int]) -> int:
        """UTF-8 bytes that ``tokens`` stand for; a character in part counts its part."""
        if isinstance(self.rust.decoder, decoders.ByteLevel):
            # A byte-level token is spelled with one character a byte.
            return sum(len(self.rust.id_to_token(int(token)) or "") for token in tokens)
        return len(self.decode(tokens).encode())

    def fingerprint(self) -> str:
        """16 hexadecimal digits of what decides the ids."""
        return fingerprint({"tokenizer": json.loads(self.rust.to_str()), "eot": self.eot_id})


def use_threads(workers: int) -> None:
    """Let ``encode_batch`` use ``workers`` threads.

    The thread pool of the Rust library starts once a process: the first call decides.
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


def fetch_tokenizer(source: str, revision: str | None, out: Path) -> Tokenizer:
    """Copy the tokenizer of a hub id or a local directory into ``out`` and load it.

    ``source.json`` in ``out`` records the commit that the hub resolved ``revision`` to. Raises
    DataError where there is none, or where the hub cannot be reached.
    """
    commit = None
    if is_local(source):
        folder = Path(os.path.expandvars(source)).expanduser()
        if not folder.is_dir():
            raise DataError(f"tokenizer {source} is no directory; give one with a tokenizer.json")
    else:
        folder = _download(source, revision)
        commit = folder.name
    with atomic_directory(out) as directory:
        if (folder / "tokenizer.json").is_file():
            shutil.copyfile(folder / "tokenizer.json", directory / "tokenizer.json")
        else:
            _from_vocabulary(folder, source).save(str(directory / "tokenizer.json"))
        for name in _CONFIGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, directory / name)
        load_tokenizer(directory)
        write_json(directory / SOURCE, {"source": source, "revision": revision, "commit": commit})
    return load_tokenizer(out)


def _download(source: str, revision: str | None) -> Path:
    """The hub's snapshot of ``source``: a directory that is named after its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_FILES)))
    except (RepositoryNotFoundError, HFValidationError):
        raise DataError(
            f"tokenizer {source!r} is neither a directory here nor a repository of the hub{at}; "
            "check its spelling"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(_offline(source, at, error)) from None


def _offline(source: str, at: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"tokenizer {source!r}{at} is not in the local cache and the hub did not give it "
        f"({reason}); run `hpcscale data prepare` on a node with a network, or set `tokenizer:` "
        "to a directory with its tokenizer.json"
    )


def _from_vocabulary(folder: Path, source: str) -> RustTokenizer:
    """GPT-2's older layout: a byte-level BPE as ``vocab.json`` and ``merges.txt``."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        raise DataError(
            f"tokenizer {source} has no tokenizer.json; make one with transformers: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(DIRECTORY)"
        )
    rust = RustTokenizer(models.BPE.from_file(str(vocab), str(merges)))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    if rust.token_to_id(END_OF_TEXT) is not None:
        rust.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return rust


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory with a ``tokenizer.json``.

    Raises DataError where the file is absent or broken, or no token ends a text.
    """
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{path} is missing; give a directory that holds a tokenizer.json")
    try:
        rust = RustTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is no tokenizer ({error}); fetch it again") from None
    return Tokenizer(rust, _end_of_text(rust, path.parent))


def _end_of_text(rust: RustTokenizer, directory: Path) -> int:
    names = [END_OF_TEXT, *(_eos_token(directory / name) for name in _CONFIGS)]
    for name in names:
        identity = rust.token_to_id(name) if name else None
        if identity is not None:
            return int(identity)
    raise DataError(
        f"the tokenizer in {directory} has no {END_OF_TEXT} and names no eos_token that it knows; "
        'add {"eos_token": "..."} to its tokenizer_config.json'
    )


def _eos_token(path: Path) -> str | None:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
