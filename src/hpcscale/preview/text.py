"""Plans and outcomes as text."""

from __future__ import annotations

from collections import Counter

from hpcscale.config.resources import STAGES
from hpcscale.opened import Plan, States, Sweep, stages_of
from hpcscale.plan.resources import world_size
from hpcscale.preview.cost import estimate
from hpcscale.preview.influence_cost import forecast_lines
from hpcscale.preview.memory import memory_lines
from hpcscale.preview.reliability import reliability_lines
from hpcscale.preview.separator import separator_lines
from hpcscale.preview.skipped import skipped_lines
from hpcscale.preview.trunk import trunk_lines
from hpcscale.rundir.layout import ANALYSIS, RESULTS
from hpcscale.rundir.state import State
from hpcscale.units import format_bytes, format_count, format_duration, format_rate

_SHOWN_FAILURES = 5


def plan_text(sweep: Sweep, plan: Plan) -> str:
    """The cells, the states of the tasks, and the tasks to start."""
    config = sweep.config
    cells = sweep.tasks.cells
    methods = ", ".join(method.name for method in config.selection)
    budgets = ", ".join(format_count(budget) for budget in config.budgets)
    lines = [
        f"sweep {config.name}: {len(cells)} cells = {len(config.selection)} methods ({methods}) "
        f"x {len(config.budgets)} budgets ({budgets} tokens) x {len(config.seeds)} seeds",
        f"run directory {sweep.run_dir}, executor {sweep.backend.name}, site {sweep.profile.name}, "
        f"precision {sweep.precision}",
    ]
    lines += skipped_lines(sweep)
    lines += trunk_lines(config)
    lines += separator_lines(sweep)
    lines += state_lines(plan.states)
    if not plan.start:
        lines.append("nothing to start")
    else:
        cost = estimate(config, plan.start, sweep.profile.gpu_type, sweep.precision)
        flops = "unknown FLOPs" if cost.flops is None else f"{cost.flops:.3g} FLOPs"
        lines.append(
            f"to start: {len(plan.start)} tasks; {format_rate(cost.train_tokens)} tokens to "
            f"train, {format_rate(cost.score_tokens)} to score, "
            f"{format_rate(cost.gradient_tokens)} to take gradients of, "
            f"{format_rate(cost.eval_tokens)} to evaluate; {flops}; {cost.hours_text}"
        )
        lines += memory_lines(sweep, plan)
        lines += forecast_lines(sweep, plan)
        lines += reliability_lines(sweep)
    return "\n".join(lines)


def state_lines(states: States) -> list[str]:
    """One line per stage: the number of tasks in each state."""
    by_stage: dict[str, Counter[str]] = {}
    for state in states.values():
        by_stage.setdefault(state.task.stage, Counter())[state.state.value] += 1
    order = [s.value for s in State]
    lines = []
    for stage in STAGES:
        if counts := by_stage.get(stage):
            parts = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
            lines.append(f"  {stage:<10} {parts}")
    return lines


def dry_run_text(sweep: Sweep, plan: Plan) -> str:
    """The resources of each stage, and what the back end shows of each array (its script)."""
    lines = ["", "resources:"]
    for stage in stages_of(plan.start):
        asked = sweep.resources(stage)
        memory = "site default" if asked.memory is None else format_bytes(asked.memory)
        lines.append(
            f"  {stage:<10} {asked.nodes} node(s) x {world_size(asked) // asked.nodes} rank(s), "
            f"{asked.gpus} GPUs a node, {asked.cpus} cores a rank, memory {memory}, "
            f"time {format_duration(asked.time)}"
        )
    for shown in sweep.backend.preview(sweep.submission(plan)):
        lines += ["", shown]
    lines += ["", "dry run: nothing was submitted"]
    return "\n".join(lines)


def outcome_text(sweep: Sweep, submitted: bool = False) -> str:
    """What the sweep has done, and what the user can do or look at next."""
    if submitted:
        return (
            f"watch:  hpcscale status {sweep.run_dir} --follow\n"
            f"report: {sweep.run_dir / 'analysis'} once the last job has ended"
        )
    states = sweep.observe()
    wrong = [state for state in states.values() if state.state is State.FAILED]
    lines = []
    for state in wrong[:_SHOWN_FAILURES]:
        lines.append(f"FAILED {state.task.name}: {state.detail}")
    if len(wrong) > _SHOWN_FAILURES:
        lines.append(f"... and {len(wrong) - _SHOWN_FAILURES} more failed tasks")
    cells = sweep.tasks.cells
    done = sum(states[task.id].state is State.DONE for task in cells)
    lines.append(f"{done} of {len(cells)} cells done")
    if wrong or done < len(cells):
        lines.append("run the same command again to continue with what is missing")
    report = sweep.run_dir / ANALYSIS
    if states[sweep.tasks.analysis.id].state is State.DONE:
        lines.append(f"losses: {report / RESULTS}")
        lines.append(f"report: {report / 'report.html'}")
        lines.append(f"fits:   {report / 'fits.csv'}")
    return "\n".join(lines)
