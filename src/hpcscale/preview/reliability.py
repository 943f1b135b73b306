"""What the attempts so far say about the next ones: lead times that are too short, bad nodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpcscale.cluster.restart import signal_lead
from hpcscale.rundir.attempts import killed_jobs, read_attempts
from hpcscale.units import format_duration

if TYPE_CHECKING:
    from hpcscale.opened import Sweep

#: Of a measured lead time; saves are not always equally fast.
_MARGIN = 1.5
_FAILURES = 2


def bad_nodes(sweep: Sweep) -> list[str]:
    """Nodes that went down twice under this sweep; Slurm's accounting is asked, where it is."""
    if sweep.executor != "slurm":
        return []
    from hpcscale.cluster.nodes import node_failures

    jobs = {job for task in sweep.graph for job in killed_jobs(sweep.run_dir / task.id)}
    return sorted(node for node, n in node_failures(sorted(jobs)).items() if n >= _FAILURES)


def reliability_lines(sweep: Sweep) -> list[str]:
    """What a plan says about it; nothing where all is well."""
    lines = _lead_lines(sweep) if sweep.executor == "slurm" else []
    if nodes := sweep.bad_nodes:
        lines.append(
            f"excluded: {', '.join(nodes)}, which went down {_FAILURES} times or more under this "
            "sweep"
        )
    return lines


def _lead_lines(sweep: Sweep) -> list[str]:
    """The measured time that a stop takes, beside the time that Slurm gives for it."""
    longest: dict[str, float] = {}
    for task in sweep.graph:
        if "train" in task.params:
            found = [a.get("lead_seconds") or 0.0 for a in read_attempts(sweep.run_dir / task.id)]
            longest[task.stage] = max([longest.get(task.stage, 0.0), *found])
    lines = []
    for stage, seconds in longest.items():
        resources = sweep.resources(stage)  # type: ignore[arg-type]
        given = signal_lead(sweep.profile, resources)
        if seconds <= given:
            continue
        wanted = math.ceil(seconds * _MARGIN / 10) * 10
        time = (
            f" and resources.{stage}.time: {format_duration(4 * wanted)} or more"
            if resources.time < 4 * wanted
            else ""
        )
        lines.append(
            f"warning: {stage} takes up to {seconds:.0f} s to stop (its longest step and save), "
            f"but Slurm signals {given} s ahead of the end; write signal_seconds: {wanted} into "
            f"the site profile{time}"
        )
    return lines
