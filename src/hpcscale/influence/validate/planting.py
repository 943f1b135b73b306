"""Documents spoilt in known ways, next to the clean ones that they are made from.

=====================  =============================================================
``shuffled-words``     the words in another order; white space stays in place
``shuffled-letters``   the same for all characters that are not white space
``repeated``           a span of 4 to 16 tokens, repeated
``language-de``        real German, from the machine's gettext catalogues
``invented``           without catalogues: words of a Markov chain of letters
=====================  =============================================================

A spoilt document has as many tokens as its source; only shuffled text may have fewer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcscale.data.documents import text_id
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import Tokenizer
from hpcscale.data.writer import StoreWriter
from hpcscale.types import Ints

CLEAN = "clean"
#: (text of a document, its tokens, generator) to new tokens.
Spoiler = Callable[[str, list[int], random.Random], list[int]]


def spoilers(tokenizer: Tokenizer, language: tuple[str, str]) -> dict[str, Spoiler]:
    """Every kind of noise by name; ``language``: the name and text of another language."""

    def tokens_of(text: str) -> list[int]:
        return tokenizer.encode_batch([text])[0]

    name, text = language
    foreign = tokens_of(text)

    def excerpt(_: str, tokens: list[int], rng: random.Random) -> list[int]:
        begin = rng.randrange(max(1, len(foreign) - len(tokens)))
        return foreign[begin : begin + len(tokens)]

    return {
        "shuffled-words": lambda text, _, rng: tokens_of(shuffle_parts(text, r"\S+", rng)),
        "shuffled-letters": lambda text, _, rng: tokens_of(shuffle_parts(text, r"\S", rng)),
        "repeated": lambda _, tokens, rng: repeat_span(tokens, rng),
        name: excerpt,
    }


def shuffle_parts(text: str, pattern: str, rng: random.Random) -> str:
    """``text`` with the matches of ``pattern`` in another order; the rest stays in place."""
    parts = re.findall(pattern, text)
    rng.shuffle(parts)
    left = iter(parts)
    return re.sub(pattern, lambda _: next(left), text)


def repeat_span(tokens: list[int], rng: random.Random) -> list[int]:
    """One span of ``tokens`` repeated to the same number of tokens."""
    size = min(rng.randint(4, 16), max(1, len(tokens) // 3))
    begin = rng.randrange(len(tokens) - size + 1)
    span = tokens[begin : begin + size]
    return (span * (len(tokens) // size + 1))[: len(tokens)]


def plant(
    store: TokenStore, positions: Ints, tokenizer: Tokenizer, kinds: dict[str, Spoiler], out: Path
) -> TokenStore:
    """A new token store in ``out``: the documents at ``positions``, then spoilt copies of them,
    kind by kind. The domain of a document is its kind."""
    out.mkdir(parents=True, exist_ok=True)
    writer = StoreWriter(out, store.vocab_size)
    for kind in (CLEAN, *kinds):
        for position in positions:
            tokens = [int(t) for t in store.tokens(int(position))]
            if kind != CLEAN:
                rng = random.Random(f"{kind}-{store.ids[position]}")
                tokens = _spoil(tokens, tokenizer, store.eot_id, kinds[kind], rng)
            identity = text_id(f"{kind}-{store.ids[position]}")
            writer.append(identity, kind, tokenizer.count_bytes(tokens), np.array(tokens))
    writer.finish("pool", store.eot_id, {})
    return TokenStore.open(out)


def _spoil(
    tokens: list[int], tokenizer: Tokenizer, eot: int, spoiler: Spoiler, rng: random.Random
) -> list[int]:
    ended = tokens[-1] == eot
    body = tokens[:-1] if ended and len(tokens) > 1 else tokens
    spoilt = spoiler(tokenizer.decode(body), body, rng)[: len(body)]
    return [*spoilt, eot] if ended else spoilt
