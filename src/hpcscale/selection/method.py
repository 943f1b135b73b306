"""What a selection method is: a rule that scores documents and keeps some, in an order.

A package adds a method by an entry point in the group ``hpcscale.selection`` that names a
subclass of ``SelectionMethod``; ``docs/adding-a-method.md`` shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hpcscale.config.types import NoParams as NoParams
from hpcscale.config.types import Section

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoreRequest:
    """Scores that a method needs. Methods with equal requests share one scoring stage.

    ``kind`` names the scorer (``perplexity``), ``params`` all that decides its result.
    """

    kind: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """The documents of the pool, a row each.

    ids: uint64 [n], stable names. lengths: int64 [n], tokens with end-of-text. domains: uint16
    [n], indices into ``domain_names``. scores: float64 [n], or None where no score was asked for.
    text: reads the text of one row.
    """

    ids: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.int64]
    domains: npt.NDArray[np.uint16]
    domain_names: tuple[str, ...]
    scores: npt.NDArray[np.float64] | None
    text: Callable[[int], str]


class SelectionMethod(ABC):
    """One named arm of a sweep, built from the validated parameters of the YAML file."""

    #: The parameters that the YAML file may give, checked before anything is submitted.
    Params: ClassVar[type[Section]] = NoParams
    #: Raise it when the method's result changes, so that older selections count as stale.
    version: ClassVar[int] = 1

    def __init__(self, params: Any) -> None:
        self.params = params

    def score_request(self) -> ScoreRequest | None:
        """The scores that ``keep`` reads as ``candidates.scores``; None for none."""
        return None

    def kept_share(self) -> float | None:
        """Roughly which share of the pool's tokens ``keep`` returns, for the plan's early check."""
        return None

    def nesting_problem(self) -> str | None:
        """Why a larger budget does not continue where a smaller one stops, with the remedy.

        None where it does: ``keep`` then returns the same rows in the same order for every budget,
        or a prefix of them. `schedule: wsd-branch` needs this.
        """
        former: Callable[[], str | None] | None = getattr(self, "why_not_nested", None)
        if former is not None:  # the name until 0.1.0, which plug-ins may still have
            return former()
        return "its class does not say that they are nested (`nesting_problem`)"

    @abstractmethod
    def keep(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """Rows to train on, in training order; as many as may be needed, the budget is cut later.

        An order that does not depend on ``budget`` makes the selection nested over budgets.
        """
