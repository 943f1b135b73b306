"""What the cells left as tables, and the analysis package's fits and figure of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import atomic_writer, write_json
from hpcscale.errors import TaskError
from hpcscale.worker.context import Context, StepResult

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "results.csv"
DOMAINS = "results-domains.csv"
CURVES = "trajectories.csv"
OVERLAP = "overlap.csv"
COSTS = "costs.csv"
SETTING = "setting.json"
SUMMARY = "summary.json"


def run(context: Context) -> StepResult:
    import scalinglaws
    from hpcscale.results.setting import collect_setting

    out, params = context.directory, context.params
    frames, missing = collect(context.run_dir, params)
    results = frames[RESULTS]
    for name, frame in frames.items():
        with atomic_writer(out / name, "w") as handle:
            frame.to_csv(handle, index=False)
    write_json(out / SETTING, collect_setting(context.run_dir, params))
    try:
        summary = scalinglaws.analyse(out, out)
    except scalinglaws.AnalysisError as error:
        raise TaskError(f"the losses in {out / RESULTS} cannot be analysed: {error}") from None
    write_json(out / SUMMARY, {"name": params["name"], "missing": missing, **summary})
    # Fits, figures and the report are not under the marker: `hpcscale report RUN` may write them
    # anew with other options, and that is no reason to run the sweep's analysis again.
    return StepResult([*frames, SETTING, SUMMARY], {"cells": len(results), "missing": missing})


def collect(run_dir: Path, params: dict[str, Any]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables by file name, and the cells that are not done.

    Raises TaskError where no cell is done.
    """
    import pandas as pd

    from hpcscale.results import costs, curves, overlap
    from hpcscale.results.losses import collect_losses

    rows, domains, missing = collect_losses(run_dir, params)
    if not rows:
        raise TaskError(f"no cell of {run_dir} is done; `hpcscale status {run_dir}` shows why")
    frames = {
        RESULTS: pd.DataFrame(rows),
        DOMAINS: pd.DataFrame(domains),
        CURVES: pd.DataFrame(curves.collect_curves(run_dir, params), columns=curves.COLUMNS),
        OVERLAP: pd.DataFrame(overlap.collect_overlap(run_dir, params), columns=overlap.COLUMNS),
        COSTS: pd.DataFrame(costs.collect_costs(run_dir, params), columns=costs.COLUMNS),
    }
    return frames, missing
