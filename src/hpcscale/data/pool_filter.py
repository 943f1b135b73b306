"""The interface of a filter, which decides which documents stay in the candidate pool.

A package adds a filter by an entry point in the group ``hpcscale.filters`` that names a subclass of
``PoolFilter``; docs/adding-a-filter.md shows one. Every stage then reads the filtered pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import atomic_directory
from hpcscale.config.data import FilterConfig
from hpcscale.config.types import NoParams, Section
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.plugins import checked, installed, load_class
from hpcscale.types import Progress

GROUP = "hpcscale.filters"
#: Entries of a manifest that describe where its documents come from.
_ORIGIN = ("tokenizer", "source", "taken", "read", "skipped")


@dataclass(frozen=True)
class Pool:
    """The documents that a filter chooses from, one per row.

    ids: uint64 [n]. lengths: int64 [n], tokens with end-of-text. domains: str [n]. text, tokens:
    the text and the token ids (int64 [length]) of one row. progress(done, total): call it to
    report progress.
    """

    ids: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.int64]
    domains: list[str]
    text: Callable[[int], str]
    tokens: Callable[[int], npt.NDArray[np.int64]]
    progress: Progress

    def __len__(self) -> int:
        return len(self.ids)


class PoolFilter(ABC):
    """One filter with the parameters of the YAML file, which ``Params`` validates."""

    Params: ClassVar[type[Section]] = NoParams
    #: Raise it when the filter's result changes, so that older pools count as stale.
    version: ClassVar[int] = 1

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def keep(self, pool: Pool) -> npt.NDArray[np.bool_]:
        """Whether each document stays, bool [n]."""


def load_filter(config: FilterConfig) -> PoolFilter:
    """The filter with its parameters checked.

    Raises ConfigError for an unknown filter, one that does not load, or wrong parameters.
    """
    known = installed(GROUP)
    found: type[PoolFilter] = load_class(GROUP, config.filter, PoolFilter, "filter", known)
    place = f"data.filters: `{config.filter}`"
    return found(checked(found.Params, config.params, place))


def write_part(
    store: TokenStore, keep: npt.NDArray[np.bool_], out: Path, name: str
) -> dict[str, Any]:
    """Write the documents of ``store`` that stay as a store in ``out``, in the same order.

    Returns its manifest.
    """
    rows = [int(row) for row in np.flatnonzero(keep)]
    facts = {key: store.manifest[key] for key in _ORIGIN if key in store.manifest}
    earlier = store.manifest.get("filtered", [])
    dropped = {"filter": name, "dropped_documents": int(len(keep) - len(rows))}
    with atomic_directory(out) as directory:
        writer = StoreWriter(directory, store.vocab_size)
        for row in rows:
            domain = store.domain_names[store.domains[row]]
            writer.append(int(store.ids[row]), domain, int(store.bytes[row]), store.tokens(row))
        facts["filtered"] = [*earlier, dropped]
        return writer.finish(str(store.manifest["role"]), store.eot_id, facts)
