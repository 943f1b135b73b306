"""Which token ends a text: the model's own, read from the JSON files of a tokenizer's directory.

Neither ``tokenizers`` nor transformers is needed, so that a plan can name it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcscale.errors import DataError

END_OF_TEXT = "<|endoftext|>"
#: Where a tokenizer directory came from: source, revision asked for, commit found, end of text.
SOURCE = "source.json"
CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
_CONFIGS = (CONFIG, SPECIAL_TOKENS)


@dataclass(frozen=True)
class EndOfText:
    """The token that ends a text, and its id. origin: which file names it, in words."""

    token: str
    id: int
    origin: str

    def __str__(self) -> str:
        return f"{self.token} (token {self.id}), {self.origin}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def end_of_text(folder: Path) -> EndOfText:
    """The end of text of the tokenizer in ``folder``.

    What ``source.json`` records comes first, then the tokenizer's eos_token, eos_token_id of the
    model's config.json, and ``<|endoftext|>``. Raises DataError where none is known, or the one
    that is named is not in the vocabulary.
    """
    vocabulary = Vocabulary(folder)
    if recorded := read_object(folder / SOURCE).get("end_of_text"):
        found = EndOfText(**recorded)
        if vocabulary.id_of(found.token) != found.id:
            raise DataError(
                f"{folder / SOURCE} records the end of text {found.token!r} as token {found.id}, "
                "which the tokenizer beside it does not have; fetch the tokenizer again"
            )
        return found
    if named := _eos_token(folder):
        identity = vocabulary.id_of(named)
        if identity is None:
            raise DataError(
                f"the tokenizer in {folder} names {named!r} as its eos_token, which is not in its "
                f"vocabulary; correct eos_token in its {CONFIG}"
            )
        return EndOfText(named, identity, "the tokenizer's eos_token")
    usual, identity = vocabulary.id_of(END_OF_TEXT), _eos_token_id(folder)
    token = None if identity is None else vocabulary.token_of(identity)
    # Some config.json hold the default of their class, an arbitrary word of another vocabulary.
    if (
        token is not None
        and identity is not None
        and (usual is None or not vocabulary.is_text(token))
    ):
        return EndOfText(token, identity, "eos_token_id of the model's config.json")
    if usual is not None:
        return EndOfText(END_OF_TEXT, usual, "since the tokenizer names no eos_token")
    raise DataError(
        f"the tokenizer in {folder} has no {END_OF_TEXT} and no eos_token of its vocabulary; "
        f'add {{"eos_token": "..."}} to its {CONFIG}'
    )


def former_end_of_text(folder: Path) -> str | None:
    """The choice of versions that preferred ``<|endoftext|>``; None where they refused."""
    vocabulary = Vocabulary(folder)
    named = [_content(read_object(folder / name).get("eos_token")) for name in _CONFIGS]
    return next((t for t in (END_OF_TEXT, *named) if t and vocabulary.id_of(t) is not None), None)


def adds_prefix_space(folder: Path) -> bool:
    """Whether the settings beside a ``vocab.json`` put a space before each text; a
    ``tokenizer.json`` says that itself."""
    settings = read_object(folder / CONFIG)
    return settings.get("add_prefix_space") is True and not (folder / "tokenizer.json").is_file()


def _eos_token(folder: Path) -> str | None:
    config, special = (read_object(folder / name) for name in _CONFIGS)
    # As transformers: the older file counts only where the newer does not list the added tokens.
    files = [config, special] if "added_tokens_decoder" in config else [special, config]
    return next((token for file in files if (token := _content(file.get("eos_token")))), None)


def _eos_token_id(folder: Path) -> int | None:
    value = read_object(folder / "config.json").get("eos_token_id")
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises DataError where it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); correct it or fetch it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object; correct it or fetch it again")
    return value


class Vocabulary:
    """Tokens and ids of a ``tokenizer.json``, or of a ``vocab.json`` with its ``merges.txt``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        whole = folder / "tokenizer.json"
        self.path = whole if whole.is_file() else folder / "vocab.json"
        self._whole = self.path == whole

    def id_of(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        # Most calls end here: parsing a large file takes half a second, searching it does not.
        if token.isascii() and token.strip("</|>") not in self._text:
            return None
        return self._tokens.get(token)

    def token_of(self, identity: int) -> str | None:
        tokens = self._added if identity in self._added.values() else self._tokens
        return next((token for token, other in tokens.items() if other == identity), None)

    def is_text(self, token: str) -> bool:
        """Whether ``token`` can come from text, as far as the files tell."""
        if token in self._added:
            return False
        return len(token) == 1 or token in self._merged or not self._merged

    @cached_property
    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({error}); fetch it again") from None

    @cached_property
    def _added(self) -> dict[str, int]:
        if not self._whole:
            return {}
        after = self._text.partition('"added_tokens"')[2].lstrip(" \t\r\n:")
        try:
            listed = json.JSONDecoder().raw_decode(after)[0]  # it comes before the vocabulary
        except ValueError:
            listed = None
        if not isinstance(listed, list):
            listed = read_object(self.path).get("added_tokens") or []
        try:
            return {entry["content"]: entry["id"] for entry in listed}
        except (TypeError, KeyError) as error:
            raise DataError(f"{self.path} is not a tokenizer ({error!r}); fetch it again") from None

    @cached_property
    def _model(self) -> dict[str, Any]:
        value = read_object(self.path)
        model = value.get("model") if self._whole else {"vocab": value}
        return model if isinstance(model, dict) else {}

    @cached_property
    def _tokens(self) -> dict[str, int]:
        vocab = self._model.get("vocab", {})
        if isinstance(vocab, list):  # Unigram: pieces with their scores
            vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
        return dict(vocab)

    @cached_property
    def _merged(self) -> set[str]:
        if self._whole:
            pairs = self._model.get("merges", [])
        else:
            path = self.folder / "merges.txt"
            pairs = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return {
            pair.replace(" ", "", 1) if isinstance(pair, str) else "".join(pair) for pair in pairs
        }
