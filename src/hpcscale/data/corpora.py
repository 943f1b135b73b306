"""Corpora: where documents come from. The only module that imports ``datasets``.

Nothing heavy is imported before documents of C4 are streamed, since planning asks every corpus
for its fingerprint.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hpcscale.atomic import atomic_directory, sha256_file, write_json
from hpcscale.config.data import CorpusConfig
from hpcscale.data import stdlib
from hpcscale.data.documents import Document, text_id
from hpcscale.data.files import read_file, starts_with_mark
from hpcscale.data.listing import Listing, list_files
from hpcscale.data.order import keyed_hash
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

C4_REPOSITORY = "allenai/c4"
_C4_VARIANTS = {"en", "en.noblocklist", "en.noclean", "multilingual", "realnewslike"}
_HASHING_THREADS = 8
_NO_NETWORK = "run `hpcscale data prepare` on a node with a network, or point `path:` at a download"


def write_dataset(batches: Iterable[Any], out: Path) -> None:
    """Write pyarrow tables of one schema as a Hugging Face dataset for ``load_from_disk``.

    They are written as they arrive and never held together.
    """
    import tempfile

    import datasets
    import pyarrow.parquet as pq

    datasets.disable_progress_bars()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, atomic_directory(out) as finished:
        # By way of parquet, since datasets reads Python's numbers as int64, which ids exceed.
        path, writer = Path(folder) / "rows.parquet", None
        for batch in batches:
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
        assert writer is not None
        writer.close()
        made = datasets.Dataset.from_parquet(str(path), cache_dir=folder)
        made.save_to_disk(str(finished))


class Corpus(ABC):
    """One source of documents."""

    #: Whether documents come in a seeded order already, so that a store may stop reading early.
    shuffled: ClassVar[bool] = False

    def __init__(self, spec: CorpusConfig) -> None:
        self.spec = spec

    @abstractmethod
    def fingerprint(self, cache: Path | None = None) -> dict[str, Any]:
        """What decides the documents of the source, JSON-ready; paths are not part of it.

        ``cache`` is a JSON file that keeps the SHA-256 of files by path, size and time of change.
        """

    @abstractmethod
    def documents(self, report: ReadReport) -> Iterator[Document]:
        """All documents; ``report`` counts broken and empty ones. Raises DataError."""

    def listing(self) -> Listing:
        """The local files of the source, listed once, and files beside them that are not read."""
        return Listing([])

    def resolved(self) -> dict[str, Any]:
        """What reading found beyond the fingerprint, such as the commit of a branch."""
        return {}


class StdlibCorpus(Corpus):
    """The English and the code of this Python's standard library."""

    def fingerprint(self, cache: Path | None = None) -> dict[str, Any]:
        return {"corpus": "stdlib", "python": stdlib.version()}

    def documents(self, report: ReadReport) -> Iterator[Document]:
        return stdlib.read_stdlib(report)


class FilesCorpus(Corpus):
    """Local files."""

    def fingerprint(self, cache: Path | None = None) -> dict[str, Any]:
        return {
            "corpus": "files",
            "text": self.spec.text,
            "domain": self.spec.domain,
            **_contents(self.listing().files, cache),
        }

    def documents(self, report: ReadReport) -> Iterator[Document]:
        for _, path in self.listing().files:
            yield from read_file(path, self.spec.text, self.spec.domain, report)

    def listing(self) -> Listing:
        return self._listing

    @cached_property
    def _listing(self) -> Listing:
        return list_files(self.spec.path)


class C4Download(Corpus):
    """A download of C4: its files are shuffled already, so a seed orders the files alone."""

    shuffled = True

    def fingerprint(self, cache: Path | None = None) -> dict[str, Any]:
        return {
            "corpus": "c4",
            "variant": self.spec.variant,
            "split": self.spec.split,
            **_contents(self.listing().files, cache),
        }

    def documents(self, report: ReadReport) -> Iterator[Document]:
        files = self.listing().files
        keys = keyed_hash([text_id(name) for name, _ in files], self.spec.seed)
        for i in keys.argsort(kind="stable"):
            for document in read_file(files[i][1], "text", "", report):
                yield Document(document.text, "c4", document.place)

    def listing(self) -> Listing:
        return self._listing

    @cached_property
    def _listing(self) -> Listing:
        """The files of the split; in a clone of the whole repository, those of the variant."""
        found = list_files(self.spec.path)
        other = "validation" if self.spec.split == "train" else "train"
        kept = [
            (parts[-1], path)
            for parts, path in ((name.split("/"), path) for name, path in found.files)
            if not re.match(rf"c4-{other}\.", parts[-1])
            and not set(parts[:-1]) & (_C4_VARIANTS - {self.spec.variant})
        ]
        if not kept:
            raise DataError(
                f"{', '.join(self.spec.path)} holds no file of C4's {self.spec.split} split, "
                f"variant {self.spec.variant} (c4-{self.spec.split}.*.json.gz); point `path:` at "
                "a download of it"
            )
        return Listing(sorted(kept), found.skipped)


class C4Stream(Corpus):
    """C4 from the Hugging Face hub, streamed once."""

    shuffled = True

    def __init__(self, spec: CorpusConfig) -> None:
        super().__init__(spec)
        self._commit: str | None = None

    def fingerprint(self, cache: Path | None = None) -> dict[str, Any]:
        spec = self.spec
        return {
            "corpus": "c4",
            "repository": C4_REPOSITORY,
            "variant": spec.variant,
            "split": spec.split,
            "revision": spec.revision,
        }

    def resolved(self) -> dict[str, Any]:
        return {"commit": self._commit} if self._commit else {}

    def documents(self, report: ReadReport) -> Iterator[Document]:
        spec = self.spec
        try:
            import datasets
            from huggingface_hub import HfApi

            commit = HfApi().dataset_info(C4_REPOSITORY, revision=spec.revision).sha
            stream = datasets.load_dataset(
                C4_REPOSITORY, spec.variant, split=spec.split, revision=commit, streaming=True
            )
            shuffled = iter(stream.shuffle(seed=spec.seed, buffer_size=spec.shuffle_buffer))
            self._commit = commit
        except Exception as error:  # the libraries under it share no base class
            raise _unreachable(error) from None
        place = f"{C4_REPOSITORY}/{spec.variant}/{spec.split}"
        number = 0
        while True:
            try:
                text = next(shuffled)["text"]
            except StopIteration:
                return
            except Exception as error:
                raise _unreachable(error) from None
            number += 1
            if not isinstance(text, str):
                report.add_broken(f"{place}:{number}", f"text is {type(text).__name__}")
                continue
            report.documents += 1
            if text.strip():
                yield Document(text, "c4", f"{place}:{number}")
            else:
                report.empty += 1


def _unreachable(error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [""]
    wrong_name = "BuilderConfig" in lines[0] or type(error).__name__ == "RevisionNotFoundError"
    return DataError(
        f"{C4_REPOSITORY} cannot be read from the Hugging Face hub "
        f"({type(error).__name__}: {lines[0]}); "
        + ("correct `variant` or `revision`" if wrong_name else _NO_NETWORK)
    )


def open_corpus(spec: CorpusConfig) -> Corpus:
    """The corpus that ``spec`` names. Reads nothing yet."""
    if spec.corpus == "stdlib":
        return StdlibCorpus(spec)
    if spec.corpus == "files":
        return FilesCorpus(spec)
    return C4Download(spec) if spec.path else C4Stream(spec)


def _contents(files: list[tuple[str, Path]], cache: Path | None) -> dict[str, Any]:
    """What decides the documents of local files."""
    texts = [path for name, path in files if name.endswith(".txt")]
    parts = [texts[first::_HASHING_THREADS] for first in range(_HASHING_THREADS)]
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        marked = any(pool.map(lambda part: any(map(starts_with_mark, part)), parts))
    # Earlier versions took the mark for text, so only where there is one is the result another.
    return {"files": hash_files(files, cache)} | ({"byte_order_mark": "removed"} if marked else {})


def hash_files(files: list[tuple[str, Path]], cache: Path | None = None) -> list[list[str]]:
    """[name, SHA-256] of each file, sorted. Several files are hashed side by side."""
    known = _read_cache(cache)
    facts: dict[str, list[Any]] = {}

    def hash_one(item: tuple[str, Path]) -> list[str]:
        name, path = item
        key = str(path.resolve())
        try:
            status = path.stat()
            when = [status.st_size, status.st_mtime_ns]
            old = known.get(key)
            hit = isinstance(old, list) and len(old) == 3 and old[:2] == when
            digest = str(old[2]) if hit and old else sha256_file(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        facts[key] = [*when, digest]
        return [name, digest]

    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        hashes = sorted(pool.map(hash_one, files))
    if cache is not None and any(known.get(key) != entry for key, entry in facts.items()):
        write_json(cache, {**known, **dict(sorted(facts.items()))})
    return hashes


def _read_cache(cache: Path | None) -> dict[str, Any]:
    try:
        value = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
