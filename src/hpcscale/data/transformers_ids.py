"""Compare our token ids with those of transformers, on texts that tell tokenizers apart.

Classes of transformers rebuild the normalizer and the pre-tokenizer of a ``tokenizer.json``, and
take settings from ``tokenizer_config.json``: the same directory can give two readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as RustTokenizer

from hpcscale.data.end_of_text import CONFIG, read_object
from hpcscale.errors import DataError

#: Texts and not one text, since some tokenizers put a space before each.
PROBE = (
    "Hello world",
    " Hello world",
    "  two spaces",
    "\tTab\tseparated\t\tvalues",
    "line\nnext\n\n\nparagraph",
    "Windows\r\nline ends\r\n",
    "trailing   ",
    " ",
    "\n",
    "don't DON'T we'll I've y'all's",
    "1 22 333 4444 1234567890 3.14159 1,000,000 v2.0.1",
    "def f(x):\n        return x[1:-1] != {'a': 0x1F}\n\n\tfor i in range(10): pass  # 100%\n",
    "Grüße, JÜRGEN! ÅNGSTRÖM naïve İstanbul ﬁne ½ ² …",
    "e\u0301 A\u030a n\u0303 \u1e9b\u0323 \uac00 \u1100\u1161",
    "日本語のテキスト、漢字。 中文字符 한국어",
    "ПРИВЕТ мир Ελληνικά עברית العربية हिन्दी ไทย",
    "🙂🙃 \U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "zero\u200bwidth no\u00a0break \ufeffmark \u3000wide \u2028line \u00adsoft",
    "\x00\x01\x07\x1b[0m\x7f\x85 \ufffd \ufffe",
    "<|endoftext|> </s><s> [PAD] [MASK] <pad> <unk> <0x0A> ▁ Ġ ##ing",
    "https://example.org/a_b?c=d&e=%20 user@example.org $x^2$ \\frac{1}{2} *** ----- ====",
)
_GENERIC = {None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"}
_MOST_ADDED, _MOST_SLOW, _SHOWN = 1000, 2000, 12


class Reader(Protocol):
    """The tokenizer that is compared: ``data.tokenizer.Tokenizer``."""

    rust: RustTokenizer
    vocab_size: int

    @property
    def added_tokens(self) -> list[str]:
        """Tokens that are found in text before the model of the tokenizer sees it."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""


def check_ids(tokenizer: Reader, folder: Path, source: str) -> None:
    """Raises DataError where transformers reads ``folder`` differently from ``tokenizer``.

    It compares the probe, each added token between words, and the text of each token.
    """
    theirs = _load(folder, source)
    added = sorted({*theirs.get_added_vocab(), *tokenizer.added_tokens})[:_MOST_ADDED]
    texts = [*PROBE, *(f"a{token}b {token} c" for token in added)]
    words = tokenizer.rust.decode_batch([[i] for i in range(tokenizer.vocab_size)])
    try:
        if theirs.is_fast:
            texts += words
            expected = _encode_fast(theirs.backend_tokenizer, texts)
        else:
            texts += words[:: 1 + len(words) // _MOST_SLOW]
            expected = theirs(texts, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
    except Exception as error:  # of many classes
        raise _unreadable(source, error) from None
    for text, ours, other in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        if ours != other:
            raise DataError(_difference(source, folder, type(theirs).__name__, text, ours, other))


def made_by_transformers(folder: Path, source: str) -> RustTokenizer:
    """The tokenizer that transformers makes of ``folder``. Raises DataError where it makes none."""
    theirs = _load(folder, source)
    if not theirs.is_fast:
        raise _unreadable(source, TypeError(f"{type(theirs).__name__} is written in Python"))
    return RustTokenizer.from_str(theirs.backend_tokenizer.to_str())


def _encode_fast(rust: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each text as a call of the tokenizer gives them, but faster."""
    rust.no_truncation()
    rust.no_padding()
    rust.encode_special_tokens = True
    return [e.ids for e in rust.encode_batch_fast(texts, add_special_tokens=False)]


def _load(folder: Path, source: str) -> Any:
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

    options: dict[str, Any] = {"local_files_only": True}
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **options)
    except Exception as error:  # of many classes
        first = error
    config = read_object(folder / CONFIG)
    if (folder / "tokenizer.json").is_file():
        generic: Any = PreTrainedTokenizerFast
    elif config.get("tokenizer_class") in _GENERIC and "auto_map" not in config:
        generic = GPT2TokenizerFast
    else:
        raise _unreadable(source, first)
    try:
        return generic.from_pretrained(str(folder), **options)
    except Exception:
        raise _unreadable(source, first) from None


def _unreadable(source: str, error: Exception) -> DataError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"transformers cannot read the tokenizer {source} ({reason}), so its token ids cannot "
        f"be checked; correct its {CONFIG}, or set `tokenizer:` to another directory"
    )


def _difference(
    source: str, folder: Path, name: str, text: str, ours: list[int], theirs: list[int]
) -> str:
    whole = (folder / "tokenizer.json").is_file()
    file = "tokenizer.json" if whole else "vocab.json"
    other = f", `reading: file` those of the {file}, as the model was published" if whole else ""
    return (
        f"tokenizer {source}: its {file} reads {text!r} as {_short(ours)}, {name} of transformers "
        f"as {_short(theirs)}; choose: `tokenizer: {{source: {source}, reading: transformers}}` "
        f"takes the ids of transformers{other}"
    )


def _short(ids: list[int]) -> str:
    return str(ids[:_SHOWN])[:-1] + (", ...]" if len(ids) > _SHOWN else "]")
