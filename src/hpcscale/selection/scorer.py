"""The interface of a scorer, which gives each document of the pool a number to select by.

A package adds a scorer by an entry point in the group ``hpcscale.scorers`` that names a subclass of
``Scorer``; ``docs/adding-a-method.md`` shows one. The suite runs it in array jobs over shards of
the pool, on any number of ranks, and continues after the documents that an interrupted job scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hpcscale.config.types import Section
from hpcscale.selection.method import NoParams


@dataclass(frozen=True)
class Batch:
    """Documents to score, one per row.

    ids: uint64 [n], stable names. lengths: int64 [n], tokens with end-of-text. domains: str [n].
    text, tokens: the text and the token ids (int64 [length]) of one row.
    """

    ids: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.int64]
    domains: list[str]
    text: Callable[[int], str]
    tokens: Callable[[int], npt.NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Place:
    """Where a scorer runs. device: ``cpu``, or ``cuda:0`` and the like. model: the directory of
    the model that ``Scorer.model`` names, in Hugging Face format."""

    device: str
    model: Path | None


class Scorer(ABC):
    """One scorer with the parameters of a ``ScoreRequest``, which ``Params`` validates."""

    Params: ClassVar[type[Section]] = NoParams
    #: Raise it when scores change, so that older ones count as stale.
    version: ClassVar[int] = 1
    #: Documents per call of ``score``; an interruption loses one call's scores at most.
    batch: ClassVar[int] = 256

    def __init__(self, params: Any) -> None:
        self.params = params

    def model(self) -> str | None:
        """The model that the scorer needs: ``base``, a hub id or a directory; None without one."""
        return None

    def flops(self, tokens: int) -> float | None:
        """Floating-point operations on a model for documents of ``tokens`` in all; None where they
        are unknown. Plans and cost tables count them."""
        return 0.0

    def open(self, place: Place) -> None:
        """Load what ``score`` needs; called once per process."""
        return

    @abstractmethod
    def score(self, documents: Batch) -> npt.NDArray[np.float64]:
        """A finite number for each document, float64 [n], which does not depend on the others."""
