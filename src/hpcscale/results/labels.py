"""The columns that name a cell in every table."""

from __future__ import annotations

from hpcscale.plan.specs import CellLabel
from hpcscale.rundir.reading import Row


def label_of(cell: CellLabel) -> Row:
    """The columns method, tokens (the budget) and seed."""
    return {"method": cell.method, "tokens": cell.budget, "seed": cell.seed}
