"""Tables of what the cells computed, and the fits and figures that the analysis makes of them."""

from __future__ import annotations

import scalinglaws
from hpcscale.atomic import atomic_writer, write_json
from hpcscale.errors import TaskError
from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results.collect import collect
from hpcscale.results.setting import collect_setting
from hpcscale.rundir.layout import RESULTS, SETTING, SUMMARY
from hpcscale.worker.context import Context, StepResult


def run(context: Context[AnalyseSpec]) -> StepResult:
    out, spec = context.directory, context.spec
    frames, missing = collect(context.run_dir, spec)
    for name, frame in frames.items():
        with atomic_writer(out / name, "w") as handle:
            frame.to_csv(handle, index=False)
    write_json(out / SETTING, collect_setting(context.run_dir, spec))
    try:
        summary = scalinglaws.analyse(out, out)
    except scalinglaws.AnalysisError as error:
        raise TaskError(f"the losses in {out / RESULTS} cannot be analysed: {error}") from None
    write_json(out / SUMMARY, {"name": spec.name, "missing": missing, **summary})
    # Fits, figures and the report are not under the marker: `hpcscale report RUN` may write them
    # again with other options, and that is no reason to run the sweep's analysis again.
    facts = {"cells": len(frames[RESULTS]), "missing": missing}
    return StepResult([*frames, SETTING, SUMMARY], facts)
