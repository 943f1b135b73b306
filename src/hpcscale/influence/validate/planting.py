"""Documents spoilt in known ways, beside the clean ones that they were made of.

=====================  =============================================================
``shuffled-words``     the words in another order, white space in its place
``shuffled-letters``   the same of all characters that are no white space
``repeated``           a span of 4 to 16 tokens, over and over
``language-de``        real German, from the machine's gettext catalogues
``invented``           where there are none: words of a Markov chain of letters
=====================  =============================================================

A spoilt document has the tokens of its source, or is cut to as many; shuffled words alone may
come out shorter.
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
    """The matches of ``pattern`` in another order, with all between them where it was."""
    parts = re.findall(pattern, text)
    rng.shuffle(parts)
    left = iter(parts)
    return re.sub(pattern, lambda _: next(left), text)


def repeat_span(tokens: list[int], rng: random.Random) -> list[int]:
    """As many tokens, of one span repeated."""
    size = min(rng.randint(4, 16), max(1, len(tokens) // 3))
    begin = rng.randrange(len(tokens) - size + 1)
    span = tokens[begin : begin + size]
    return (span * (len(tokens) // size + 1))[: len(tokens)]


def plant(
    store: TokenStore, positions: Ints, tokenizer: Tokenizer, kinds: dict[str, Spoiler], out: Path
) -> TokenStore:
    """A new token store in ``out``: the documents ``positions``, then a spoilt copy of each of
    every kind, kind by kind; the domain of each tells what it is."""
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
