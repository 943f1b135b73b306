"""Show the state of a run directory, from its own records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpcscale.backends.display import progress_cells, read_progress
from hpcscale.backends.registry import endings
from hpcscale.opened import States, Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.preview.text import state_lines
from hpcscale.rundir.state import Job, State, TaskState
from hpcscale.sweep import reopen

_EVERY = 2.0
_SHOWN = 20


def status_text(run_dir: Path, every: bool) -> str:
    sweep = reopen(run_dir)
    states = sweep.observe()
    lines = [f"sweep {sweep.config.name} in {run_dir}", *state_lines(states)]
    shown = [s for s in states.values() if every or not s.over]
    listed = shown if every else shown[:_SHOWN]
    ends = endings([s.job for s in listed if s.job and s.state is State.MISSING])
    for state in listed:
        lines.append(_line(sweep, state, ends))
    if not every and len(shown) > _SHOWN:
        lines.append(f"  ... and {len(shown) - _SHOWN} more (--all lists them)")
    return "\n".join(lines)


def _line(sweep: Sweep, state: TaskState[AnyTask], ends: Mapping[Job, str]) -> str:
    """ends: how jobs ended that left neither a result nor an error."""
    parts = [f"  {state.state.value:<8} {state.task.id}"]
    if state.job and (state.alive or state.job in ends):
        ended = f" ended: {ends[state.job]}" if state.job in ends else ""
        parts.append(f"job {state.job.id}{ended}")
    report = read_progress(sweep.run_dir, state.task.id)
    if state.state is State.RUNNING and report and report["total"]:
        parts.append(f"{report['done'] / report['total']:.0%} {report['note']}")
    if state.detail:
        parts.append(state.detail)
    return "  ".join(parts)


def follow_run(run_dir: Path) -> None:
    """Show a live table until no task of the sweep waits or runs."""
    sweep = reopen(run_dir)
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            states = sweep.observe()
            live.update(_table(sweep, states), refresh=True)
            if not any(state.alive for state in states.values()):
                return
            time.sleep(_EVERY)


def _table(sweep: Sweep, states: States) -> Group:
    running = [state for state in states.values() if state.state is State.RUNNING]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for state in running[:_SHOWN]:
        report = read_progress(sweep.run_dir, state.task.id)
        table.add_row("  " + state.task.name, *progress_cells(report))
    return Group(Text("\n".join(state_lines(states))), table)
