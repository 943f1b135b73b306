"""All tables of a run directory that are written as CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hpcscale.errors import TaskError
from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results import costs, curves, overlap
from hpcscale.results.losses import collect_losses
from hpcscale.rundir.layout import COSTS, CURVES, DOMAINS, OVERLAP, RESULTS


def collect(run_dir: Path, spec: AnalyseSpec) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables by file name, and the cells that are not done.

    Raises TaskError where no cell is done.
    """
    rows, domains, missing = collect_losses(run_dir, spec)
    if not rows:
        raise TaskError(f"no cell of {run_dir} is done; `hpcscale status {run_dir}` shows why")
    frames = {
        RESULTS: pd.DataFrame(rows),
        DOMAINS: pd.DataFrame(domains),
        CURVES: pd.DataFrame(curves.collect_curves(run_dir, spec), columns=curves.COLUMNS),
        OVERLAP: pd.DataFrame(overlap.collect_overlap(run_dir, spec), columns=overlap.COLUMNS),
        COSTS: pd.DataFrame(costs.collect_costs(run_dir, spec), columns=costs.COLUMNS),
    }
    return frames, missing
