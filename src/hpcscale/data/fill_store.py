"""Fill a store with documents of a corpus: the wanted ones, each once, up to a token count."""

from __future__ import annotations

import queue
import threading
from array import array
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hpcscale.data.corpora import Corpus
from hpcscale.data.documents import Document, text_id, unit_hash
from hpcscale.data.order import keyed_hash
from hpcscale.data.report import ReadReport
from hpcscale.data.tokenizer import Tokenizer
from hpcscale.data.writer import token_dtype

# A batch is bounded by both, so that neither many small nor a few huge texts fill the memory.
_BATCH_DOCUMENTS = 2048
_BATCH_CHARACTERS = 1 << 22
_READ_AHEAD = 3
# Keeps the order in which a store takes documents apart from the order of training.
_ORDER_KEY = 0x7461_6B65

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """Documents that may be kept, their ids, and the report after reading them."""

    documents: list[Document]
    ids: npt.NDArray[np.uint64]
    report: ReadReport


def read_batches(
    corpus: Corpus, hash_range: tuple[float, float], excluded: npt.NDArray[np.uint64]
) -> Iterator[ReadBatch]:
    """The corpus's documents of the wanted domains and split that are not in ``excluded``.

    ``excluded`` is sorted. Batches depend on the corpus alone, never on speed or workers.
    """
    report = ReadReport()
    low, high = hash_range
    wanted = set(corpus.spec.domains) if corpus.spec.domains else None
    documents: list[Document] = []
    ids: list[int] = []
    characters = 0

    def batch() -> ReadBatch:
        snapshot = replace(report, first_broken=list(report.first_broken))
        return ReadBatch(documents, np.array(ids, dtype=np.uint64), snapshot)

    for document in corpus.documents(report):
        if wanted is not None and document.domain not in wanted:
            report.wrong_domain += 1
            continue
        identity = text_id(document.text)
        if not low <= unit_hash(identity) < high:
            report.other_split += 1
            continue
        if _contains(excluded, identity):
            report.excluded += 1
            continue
        documents.append(document)
        ids.append(identity)
        characters += len(document.text)
        if len(documents) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch()
            documents, ids, characters = [], [], 0
    yield batch()


def _contains(values: npt.NDArray[np.uint64], identity: int) -> bool:
    place = int(np.searchsorted(values, np.uint64(identity)))
    return place < len(values) and int(values[place]) == identity


def read_ahead(items: Iterator[T], depth: int = _READ_AHEAD) -> Generator[T, None, None]:
    """``items`` in their order, read by a thread while the caller works on earlier ones."""
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            if isinstance(items, Generator):
                items.close()  # and with it the file that it reads

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


@dataclass(slots=True)
class Encoded:
    """A document's id, domain, UTF-8 bytes and tokens, end-of-text included."""

    identity: int
    domain: str
    n_bytes: int
    tokens: npt.NDArray[Any]


def encode(batch: ReadBatch, keep: npt.NDArray[np.bool_], tokenizer: Tokenizer) -> list[Encoded]:
    """The kept documents of a batch, in its order, each ended by end-of-text."""
    kept = np.flatnonzero(keep)
    texts = [batch.documents[i].text for i in kept]
    dtype = token_dtype(tokenizer.vocab_size)
    encoded = []
    for i, text, tokens in zip(kept, texts, tokenizer.encode_batch(texts), strict=True):
        tokens.append(tokenizer.eot_id)
        encoded.append(
            Encoded(
                int(batch.ids[i]),
                batch.documents[i].domain,
                len(text.encode()),
                np.array(tokens, dtype=dtype),
            )
        )
    return encoded


class KeyedPrefix:
    """The documents with the lowest keyed hashes that together reach a token count.

    Exact in one pass: once the documents seen reach the count, documents with a higher key cannot
    be among them, so the bound only falls, and documents above it are neither tokenised nor
    remembered. Tokens wait in a spool file on disk.
    """

    def __init__(self, spool: Path, seed: int, wanted: int | None, dtype: np.dtype[Any]) -> None:
        self._path = spool
        self._file = open(spool, "wb")  # noqa: SIM115 -- drain() ends it
        self._dtype = dtype
        self._seed = seed
        self._wanted = wanted
        self._bound = np.uint64(2**64 - 1)
        self._size = 0
        self._candidate_tokens = 0
        self._seen: set[int] = set()
        self._domains: dict[str, int] = {}
        self._empty()

    def _empty(self) -> None:
        self._ids, self._begins, self._lengths = array("Q"), array("q"), array("q")
        self._bytes, self._codes = array("I"), array("H")

    def wants(self, ids: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.bool_], int]:
        """Which of ``ids`` may still belong, each once, and how many repeat a taken one."""
        mask = keyed_hash(ids, self._seed, _ORDER_KEY) <= self._bound
        return keep_first(ids, mask, self._seen)

    def add(self, encoded: list[Encoded]) -> None:
        for item in encoded:
            self._file.write(item.tokens.astype(self._dtype, copy=False).tobytes())
            self._ids.append(item.identity)
            self._begins.append(self._size)
            self._lengths.append(len(item.tokens))
            self._bytes.append(item.n_bytes)
            self._codes.append(self._domains.setdefault(item.domain, len(self._domains)))
            self._size += len(item.tokens)
            self._candidate_tokens += len(item.tokens)
        if self._wanted is not None and self._candidate_tokens > 1.25 * self._wanted:
            self._prune()

    def _ranked(self) -> npt.NDArray[np.int64]:
        """Candidates in the order of their keys, up to the one that reaches the count."""
        ids = np.array(self._ids, dtype=np.uint64)
        ranked = np.lexsort((ids, keyed_hash(ids, self._seed, _ORDER_KEY)))
        if self._wanted is not None:
            sums = np.cumsum(np.array(self._lengths, dtype=np.int64)[ranked])
            ranked = ranked[: int(np.searchsorted(sums, self._wanted)) + 1]
        return ranked.astype(np.int64, copy=False)

    def _prune(self) -> None:
        ranked = self._ranked()
        old = (self._ids, self._begins, self._lengths, self._bytes, self._codes)
        self._empty()
        new = (self._ids, self._begins, self._lengths, self._bytes, self._codes)
        for values, kept in zip(old, new, strict=True):
            kept.extend(values[i] for i in ranked)
        self._candidate_tokens = sum(self._lengths)
        self._seen = set(self._ids)
        self._bound = keyed_hash([self._ids[-1]], self._seed, _ORDER_KEY)[0]

    def drain(self) -> Iterator[Encoded]:
        """The documents in the order of their keys; deletes the spool."""
        self._file.close()
        names = list(self._domains)
        if self._size:
            spool = np.asarray(np.memmap(self._path, dtype=self._dtype, mode="r"))
            for i in self._ranked():
                begin = self._begins[i]
                tokens = spool[begin : begin + self._lengths[i]]
                yield Encoded(self._ids[i], names[self._codes[i]], self._bytes[i], tokens)
        self._path.unlink()


def keep_first(
    ids: npt.NDArray[np.uint64], mask: npt.NDArray[np.bool_], seen: set[int]
) -> tuple[npt.NDArray[np.bool_], int]:
    """``mask`` without the ids in ``seen``, and how many those were; ``seen`` gets the rest."""
    keep = mask.copy()
    for i in np.flatnonzero(mask):
        identity = int(ids[i])
        if identity in seen:
            keep[i] = False
        seen.add(identity)
    return keep, int(mask.sum() - keep.sum())


class StoreFill:
    """One pass over a corpus: the documents for the store, and the report of what was read."""

    def __init__(
        self,
        corpus: Corpus,
        hash_range: tuple[float, float],
        excluded: npt.NDArray[np.uint64],
        tokenizer: Tokenizer,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self.report = ReadReport()
        self._corpus = corpus
        self._batches = read_batches(corpus, hash_range, excluded)
        self._tokenizer = tokenizer
        self._progress = progress

    def documents(self, spool: Path) -> Generator[Encoded, None, None]:
        """The documents in the order in which the store takes them."""
        spec = self._corpus.spec
        if self._corpus.shuffled:
            return self._in_corpus_order(spec.tokens)
        dtype = token_dtype(self._tokenizer.vocab_size)
        return self._in_key_order(KeyedPrefix(spool, spec.seed, spec.tokens, dtype))

    def _in_corpus_order(self, wanted: int | None) -> Generator[Encoded, None, None]:
        seen: set[int] = set()
        done = duplicates = 0
        with closing(read_ahead(self._batches)) as batches:
            for batch in batches:
                everything = np.ones(len(batch.ids), dtype=np.bool_)
                keep, repeated = keep_first(batch.ids, everything, seen)
                duplicates += repeated
                self.report = replace(batch.report, duplicates=duplicates)
                encoded = encode(batch, keep, self._tokenizer)
                done += sum(len(item.tokens) for item in encoded)
                if self._progress:
                    self._progress(done if wanted is None else min(done, wanted), wanted)
                yield from encoded

    def _in_key_order(self, prefix: KeyedPrefix) -> Generator[Encoded, None, None]:
        done = duplicates = 0
        with closing(read_ahead(self._batches)) as batches:
            for batch in batches:
                keep, repeated = prefix.wants(batch.ids)
                duplicates += repeated
                self.report = replace(batch.report, duplicates=duplicates)
                encoded = encode(batch, keep, self._tokenizer)
                prefix.add(encoded)
                done += sum(len(item.tokens) for item in encoded)
                if self._progress:
                    self._progress(done, None)
        yield from prefix.drain()
