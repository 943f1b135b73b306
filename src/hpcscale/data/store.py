"""The token store: a tokenised split on disk, memory-mapped, with a manifest.

===============  =================  ============================================================
``tokens.npy``   uint16 or uint32   all documents one after the other, each ending in end-of-text
``offsets.npy``  int64, [n + 1]     document i is ``tokens[offsets[i]:offsets[i + 1]]``
``ids.npy``      uint64, [n]        first 8 bytes of SHA-256 of the text
``domains.npy``  uint16, [n]        codes into the manifest's domain names
``bytes.npy``    uint32, [n]        UTF-8 bytes of the text (of the kept tokens where it was cut)
===============  =================  ============================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import atomic_directory, sha256_file
from hpcscale.config.data import CorpusConfig, Role
from hpcscale.data.corpora import Corpus, open_corpus
from hpcscale.data.fill_store import Encoded, StoreFill
from hpcscale.data.report import ReadReport
from hpcscale.data.tokenizer import Tokenizer, use_threads
from hpcscale.data.writer import ARRAYS, FORMAT_VERSION, MANIFEST, StoreWriter
from hpcscale.errors import DataError

_REMEDY = "delete the directory and run the same command again"


class TokenStore:
    """Read access to one token store; arrays are memory maps and must not be written to."""

    def __init__(self, path: Path, manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.all_tokens: npt.NDArray[np.unsignedinteger[Any]] = arrays["tokens.npy"]
        self.offsets: npt.NDArray[np.int64] = arrays["offsets.npy"]
        self.ids: npt.NDArray[np.uint64] = arrays["ids.npy"]
        self.domains: npt.NDArray[np.uint16] = arrays["domains.npy"]
        self.bytes: npt.NDArray[np.uint32] = arrays["bytes.npy"]
        self._sorted: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]] | None = None

    @classmethod
    def open(cls, path: Path | str, verify: bool = False) -> TokenStore:
        """Open the store at ``path``; with ``verify``, compare every array's SHA-256 first.

        Raises DataError where it is absent, incomplete, of another format or damaged.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        arrays = {name: _map_array(path / name) for name in ARRAYS}
        _check_shapes(path, manifest, arrays)
        if verify:
            for name, digest in manifest["sha256"].items():
                if sha256_file(path / name) != digest:
                    raise DataError(f"{path / name} differs from its checksum; {_REMEDY}")
        return cls(path, manifest, arrays)

    def tokens(self, i: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The tokens of document ``i``, shape [length], as a view of the memory map."""
        return self.all_tokens[self.offsets[i] : self.offsets[i + 1]]

    @property
    def n_documents(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        return len(self.all_tokens)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, end-of-text included; shape [n], int64."""
        return np.diff(self.offsets)

    @property
    def eot_id(self) -> int:
        return int(self.manifest["eot_id"])

    @property
    def vocab_size(self) -> int:
        return int(self.manifest["vocab_size"])

    @property
    def domain_names(self) -> Sequence[str]:
        return list(self.manifest["domain_names"])

    def index_of(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Positions of ``ids`` (shape [k], uint64) in the store.

        Raises DataError naming the first id that the store does not hold.
        """
        wanted = np.asarray(ids, dtype=np.uint64)
        if self._sorted is None:
            by_id = np.argsort(self.ids, kind="stable")
            self._sorted = (self.ids[by_id], by_id)
        keys, positions = self._sorted
        places = np.searchsorted(keys, wanted)
        found = places < len(keys)
        found[found] = keys[places[found]] == wanted[found]
        if not found.all():
            missing = wanted[~found]
            raise DataError(
                f"{len(missing)} of {len(wanted)} document ids are not in {self.path}, the first "
                f"is {int(missing[0]):016x}; the selection was made from another store"
            )
        return positions[places].astype(np.int64, copy=False)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a token store: it has no {MANIFEST}; build it with `hpcscale data "
            "prepare` or run the same `hpcscale sweep` again"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path / MANIFEST} cannot be read ({error}); {_REMEDY}") from None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has token store format {version}, this version of hpcscale reads "
            f"{FORMAT_VERSION}; {_REMEDY}"
        )
    return dict(manifest)


def _map_array(path: Path) -> npt.NDArray[Any]:
    try:
        # An empty array cannot be mapped; np.asarray drops memmap's slow indexing.
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {_REMEDY}") from None
    except (ValueError, OSError, EOFError) as error:
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise DataError(f"{path} is damaged ({error}); {_REMEDY}") from None
    if array.ndim != 1 or array.dtype.type not in ARRAYS[path.name]:
        raise DataError(f"{path} holds {array.dtype} {array.shape}, not a token store's; {_REMEDY}")
    return array


def _check_shapes(path: Path, manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    documents, tokens = manifest["counts"]["documents"], manifest["counts"]["tokens"]
    expected = {
        "tokens.npy": tokens,
        "offsets.npy": documents + 1,
        "ids.npy": documents,
        "domains.npy": documents,
        "bytes.npy": documents,
    }
    for name, length in expected.items():
        if len(arrays[name]) != length:
            raise DataError(
                f"{path / name} has {len(arrays[name])} entries, the manifest says {length}; "
                f"{_REMEDY}"
            )
    offsets = arrays["offsets.npy"]
    if offsets[0] != 0 or offsets[-1] != tokens:
        raise DataError(f"{path / 'offsets.npy'} does not cover the tokens; {_REMEDY}")


def build_store(
    spec: CorpusConfig,
    role: Role,
    hash_range: tuple[float, float],
    tokenizer: Tokenizer,
    out: Path,
    *,
    exclude: Sequence[Path] = (),
    max_broken: float = 0.01,
    workers: int = 1,
    progress: Callable[[int, int | None], None] | None = None,
    cut: bool = False,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Tokenise one role's documents into the store ``out`` and return its manifest.

    The store keeps documents of ``spec.domains`` whose ``unit_hash`` lies in [low, high) of
    ``hash_range``, each text once, and none that a store in ``exclude`` holds. It takes them in an
    order that ``spec.seed`` decides until it has ``spec.tokens`` tokens; with ``cut`` the last one
    is cut so that the count is exact. The bytes on disk do not depend on ``workers``.

    ``progress(done, total)`` counts tokens; total is None where the whole corpus has to be read.
    ``cache`` keeps checksums of files. Raises DataError where more than the share ``max_broken``
    is broken, or the corpus holds too few tokens; a candidate pool may hold fewer.
    """
    use_threads(workers)
    corpus = open_corpus(spec)
    source = corpus.fingerprint(cache)
    others = [TokenStore.open(path) for path in exclude]
    taken_by_others = [store.ids for store in others] or [np.empty(0, dtype=np.uint64)]
    excluded = np.sort(np.concatenate(taken_by_others))
    fill = StoreFill(corpus, hash_range, excluded, tokenizer, progress)
    with atomic_directory(out) as directory:
        writer = StoreWriter(directory, tokenizer.vocab_size)
        with closing(fill.documents(directory / "spool")) as documents:
            _fill(writer, documents, spec.tokens, tokenizer if cut else None)
        fill.report.check(max_broken)
        _check_enough(role, corpus, writer, fill.report)
        facts = {
            "tokenizer": {"fingerprint": tokenizer.fingerprint()},
            "source": {**source, **corpus.resolved()},
            "taken": {
                "wanted_tokens": spec.tokens,
                "last_document": "cut" if cut else "whole",
                "seed": spec.seed,
                "hash_range": list(hash_range),
                "domains": list(spec.domains) if spec.domains else None,
                "exclude": [
                    {"role": s.manifest["role"], "ids": s.manifest["sha256"]["ids.npy"]}
                    for s in others
                ],
            },
            "read": fill.report.plain(),
        }
        if skipped := corpus.listing().skipped:
            facts["skipped"] = skipped
        return writer.finish(role, tokenizer.eot_id, facts)


def _fill(
    writer: StoreWriter, items: Iterable[Encoded], wanted: int | None, cutter: Tokenizer | None
) -> None:
    """Append documents until ``wanted`` is reached; ``cutter`` counts a cut document's bytes."""
    for item in items:
        tokens, n_bytes = item.tokens, item.n_bytes
        if wanted is not None:
            room = wanted - writer.n_tokens
            if cutter and len(tokens) > room:
                # A document that lost only its end-of-text has lost no byte.
                n_bytes = cutter.cut_bytes(tokens.tolist(), room, n_bytes)
                tokens = tokens[:room]
        writer.append(item.identity, item.domain, n_bytes, tokens)
        if wanted is not None and writer.n_tokens >= wanted:
            return


def _check_enough(role: Role, corpus: Corpus, writer: StoreWriter, report: ReadReport) -> None:
    wanted = corpus.spec.tokens
    short = wanted is not None and writer.n_tokens < wanted and role != "pool"
    if writer.n_documents and not short:
        return
    what = f"{wanted} tokens" if short else "documents"
    domains = f" of {', '.join(corpus.spec.domains)}" if corpus.spec.domains else ""
    read = (
        f"{report.documents} read, {report.other_split} of other splits, {report.wrong_domain} of "
        f"other domains, {report.duplicates} repeated, {report.excluded} of other roles, "
        f"{report.empty} empty"
    )
    raise DataError(
        f"the {role} corpus `{corpus.spec.corpus}` holds too few {what}{domains}: "
        f"{writer.n_tokens} tokens in {writer.n_documents} documents were found ({read}); lower "
        f"data.{role}.tokens, raise data.{role}.share, or add data"
    )
