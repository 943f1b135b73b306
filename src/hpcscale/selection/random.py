"""A uniform sample without replacement, nested over budgets: the control arm."""

from __future__ import annotations

from hpcscale.data.order import document_order
from hpcscale.selection.method import Candidates, Positions, SelectionMethod


class Random(SelectionMethod):
    """Documents in a seeded order; a larger budget continues where a smaller one stops."""

    def kept_share(self) -> float:
        return 1.0

    def nesting_problem(self) -> None:
        return None

    def keep(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        return document_order(candidates.ids, seed)
