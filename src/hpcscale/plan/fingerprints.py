"""Fingerprints of what lies outside the run directory: corpora, and local model directories."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpcscale.atomic import sha256_file
from hpcscale.config.data import CorpusConfig
from hpcscale.config.model import is_local
from hpcscale.errors import ConfigError

if TYPE_CHECKING:
    from hpcscale.data.corpora import Corpus
    from hpcscale.data.listing import Listing

_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "*.safetensors",
    "*.bin",
)


class Sources(Protocol):
    """What identifies the content of corpora and local directories."""

    def corpus(self, spec: CorpusConfig) -> object:
        """JSON that changes with the documents of a corpus."""

    def directory(self, source: str) -> dict[str, str] | None:
        """SHA-256 of each model or tokenizer file in a local directory; None for a hub id."""


class SourceFingerprints:
    """Fingerprints by content, not by path: a file that moves keeps its fingerprint."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._corpora: dict[CorpusConfig, Any] = {}
        self._opened: dict[CorpusConfig, Corpus] = {}

    def corpus(self, spec: CorpusConfig) -> Any:
        if spec not in self._corpora:
            self._corpora[spec] = self._open(spec).fingerprint(self.cache)
        return self._corpora[spec]

    def listing(self, spec: CorpusConfig) -> Listing:
        """The files that the fingerprint covers; the corpus is listed only once."""
        return self._open(spec).listing()

    def _open(self, spec: CorpusConfig) -> Corpus:
        if spec not in self._opened:
            from hpcscale.data.corpora import open_corpus

            self._opened[spec] = open_corpus(spec)
        return self._opened[spec]

    def directory(self, source: str) -> dict[str, str] | None:
        """SHA-256 of each model or tokenizer file in a local directory; None for a hub id.

        Raises ConfigError where ``source`` names a directory that holds no such file.
        """
        if not is_local(source):
            return None
        folder = Path(source).expanduser()
        files = sorted({f for pattern in _MODEL_FILES for f in folder.glob(pattern)})
        if not files:
            found = "has no model or tokenizer files" if folder.is_dir() else "is not a directory"
            raise ConfigError(
                f"{source} {found}; give a directory with config.json, *.safetensors or "
                "tokenizer.json, or a hub id such as gpt2"
            )
        return {file.name: sha256_file(file) for file in files}


def absolute_paths(paths: Iterable[str]) -> list[str]:
    """Absolute paths, for workers that start elsewhere; variables and ``~`` are expanded."""
    return [str(Path(os.path.expandvars(path)).expanduser().absolute()) for path in paths]


def absolute_source(source: str) -> str:
    """The absolute path of a local model directory; a hub id unchanged."""
    return absolute_paths([source])[0] if is_local(source) else source
