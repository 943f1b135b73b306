"""Whether the grid of a sweep can tell its methods apart, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcscale.config.sweep import SweepConfig
from hpcscale.opened import Sweep
from hpcscale.rundir.layout import ANALYSIS

if TYPE_CHECKING:
    from scalinglaws.inputs import Inputs
    from scalinglaws.power import Design


def design_of(config: SweepConfig) -> Design:
    from scalinglaws.power import Design

    return Design(config.budgets, len(config.seeds), len(config.selection))


def pilot_of(run_dir: Path) -> Inputs | None:
    """The losses that the run directory has already; None where none can be used."""
    from scalinglaws.errors import AnalysisError
    from scalinglaws.inputs import read_inputs

    try:
        return read_inputs(run_dir / ANALYSIS)
    except AnalysisError:
        return None


def power_lines(sweep: Sweep) -> list[str]:
    """What the grid tells apart, and a warning where that is not enough: two lines at most."""
    from scalinglaws.pilot import basis
    from scalinglaws.power import design_warnings, detectable

    design = design_of(sweep.config)
    known = basis(design, pilot_of(sweep.run_dir))
    lines = []
    if design.methods > 1:
        least = detectable(design, known.noise, known.curve).iloc[0]
        lines.append(
            f"power: methods that differ by {least['nats']:.2g} nats over all budgets, or by "
            f"{least['multiplier']:.3g} x tokens, are told apart with {design.power:.0%} chance; "
            f"{known.noise_from}"
        )
    if warnings := design_warnings(design, known.noise, known.curve):
        lines.append(f"warning: {'; '.join(warnings)} (see `hpcscale plan-power {sweep.path}`)")
    return lines
