"""Warnings that follow from earlier attempts: lead times that are too short, failing nodes."""

from __future__ import annotations

import math

from hpcscale.config.resources import StageName
from hpcscale.opened import Sweep
from hpcscale.plan.kinds import Passes
from hpcscale.rundir.attempts import read_attempts
from hpcscale.units import format_duration

#: Times a measured lead time, since saves vary in speed.
_MARGIN = 1.5


def reliability_lines(sweep: Sweep) -> list[str]:
    """The warnings of a plan; empty where there are none."""
    lines = _lead_lines(sweep)
    if nodes := sweep.bad_nodes:
        lines.append(
            f"excluded: {', '.join(nodes)}, which went down two times or more under this sweep"
        )
    return lines


def _lead_lines(sweep: Sweep) -> list[str]:
    """A warning for each stage that takes longer to stop than the scheduler allows."""
    longest: dict[StageName, float] = {}
    for task in sweep.tasks.graph:
        if task.kind.passes is Passes.TRAIN:
            found = [a.get("lead_seconds") or 0.0 for a in read_attempts(sweep.run_dir / task.id)]
            longest[task.stage] = max([longest.get(task.stage, 0.0), *found])
    lines = []
    for stage, seconds in longest.items():
        resources = sweep.resources(stage)
        given = sweep.backend.stop_lead(sweep.profile, resources)
        if given is None or seconds <= given:
            continue
        wanted = math.ceil(seconds * _MARGIN / 10) * 10
        time = (
            f" and resources.{stage}.time: {format_duration(4 * wanted)} or more"
            if resources.time < 4 * wanted
            else ""
        )
        lines.append(
            f"warning: {stage} takes up to {seconds:.0f} s to stop (its longest step and save), "
            f"but jobs are signalled {given} s before the end; write signal_seconds: {wanted} "
            f"into the site profile{time}"
        )
    return lines
