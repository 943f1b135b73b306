"""What a scorer is: it gives each document of the pool a number, which methods select by.

A package adds a scorer by an entry point in the group ``hpcscale.scorers`` that names a subclass of
``Scorer``; ``docs/adding-a-method.md`` shows one. The suite runs it in array jobs over shards of
the pool, on any number of ranks, and continues behind what an interrupted job had scored.
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
    """Documents to score, a row each.

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
    #: Documents a call of ``score``: what an interruption can cost.
    batch: ClassVar[int] = 256

    def __init__(self, params: Any) -> None:
        self.params = params

    def model(self) -> str | None:
        """A model that the scorer needs: ``base``, a hub id or a directory; None for none."""
        return None

    def flops(self, tokens: int) -> float | None:
        """Floating-point operations on a model for documents of so many tokens; None where they
        are not known. Plans and cost tables count them."""
        return 0.0

    def open(self, place: Place) -> None:
        """Load what ``score`` needs, once a process."""
        return

    @abstractmethod
    def score(self, documents: Batch) -> npt.NDArray[np.float64]:
        """A finite number for each document, float64 [n], whatever else is in the batch."""
