"""Plans and outcomes in words."""

from __future__ import annotations

from collections import Counter

from hpcscale.config.resources import STAGES
from hpcscale.opened import Plan, Sweep
from hpcscale.plan.resources import world_size
from hpcscale.plan.stages import cell_tasks
from hpcscale.plan.trunk import trunk_lines
from hpcscale.preview.cost import estimate
from hpcscale.preview.influence_cost import forecast_lines
from hpcscale.preview.memory import memory_lines
from hpcscale.preview.reliability import reliability_lines
from hpcscale.preview.separator import separator_lines
from hpcscale.preview.skipped import skipped_lines
from hpcscale.rundir.state import State, TaskState
from hpcscale.units import format_bytes, format_count, format_duration, format_rate

_SHOWN_FAILURES = 5


def plan_text(sweep: Sweep, plan: Plan) -> str:
    """Cells, states and what is about to start."""
    config = sweep.config
    cells = cell_tasks(sweep.graph)
    methods = ", ".join(method.name for method in config.selection)
    budgets = ", ".join(format_count(budget) for budget in config.budgets)
    lines = [
        f"sweep {config.name}: {len(cells)} cells = {len(config.selection)} methods ({methods}) "
        f"x {len(config.budgets)} budgets ({budgets} tokens) x {len(config.seeds)} seeds",
        f"run directory {sweep.run_dir}, executor {sweep.executor}, site {sweep.profile.name}, "
        f"precision {sweep.pipeline.precision}",
    ]
    lines += skipped_lines(sweep)
    lines += trunk_lines(config)
    lines += separator_lines(sweep)
    lines += state_lines(plan.states)
    if not plan.start:
        lines.append("nothing to start")
    else:
        cost = estimate(config, plan.start, sweep.profile.gpu_type, sweep.pipeline.precision)
        flops = "unknown FLOPs" if cost.flops is None else f"{cost.flops:.3g} FLOPs"
        lines.append(
            f"to start: {len(plan.start)} tasks; {format_rate(cost.train_tokens)} tokens to "
            f"train, {format_rate(cost.score_tokens)} to score, "
            f"{format_rate(cost.gradient_tokens)} to take gradients of, "
            f"{format_rate(cost.eval_tokens)} to evaluate; {flops}; {cost.hours_told}"
        )
        lines += memory_lines(sweep, plan)
        lines += forecast_lines(sweep, plan)
        lines += reliability_lines(sweep)
    return "\n".join(lines)


def state_lines(states: dict[str, TaskState]) -> list[str]:
    """One line a stage, counts by state."""
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
    """Resources a stage, and the sbatch script of each array; on other executors, the processes."""
    lines = ["", "resources:"]
    for stage in dict.fromkeys(task.stage for task in plan.start):
        asked = sweep.resources(stage)
        memory = "site default" if asked.memory is None else format_bytes(asked.memory)
        lines.append(
            f"  {stage:<10} {asked.nodes} node(s) x {world_size(asked) // asked.nodes} rank(s), "
            f"{asked.gpus} GPUs a node, {asked.cpus} cores a rank, memory {memory}, "
            f"time {format_duration(asked.time)}"
        )
    from hpcscale.backends.slurm import arrays
    from hpcscale.cluster.executor import SlurmExecutor

    executor = SlurmExecutor(sweep.profile, sweep.run_dir / "logs", sweep.bad_nodes)
    for array in arrays(sweep, plan):
        script = executor.render(
            stage=array.stage,
            name=f"{sweep.config.name}-{array.stage}",
            resources=array.resources,
            payloads=array.payloads,
            run_dir=sweep.run_dir,
            dependencies=[],
        )
        size = len(array.elements)
        title = f"--- {array.stage}: {f'job array of {size} elements' if size > 1 else 'one job'}"
        lines += ["", title, script.rstrip()]
    lines += ["", "dry run: nothing was submitted"]
    return "\n".join(lines)


def outcome_text(sweep: Sweep, submitted: bool = False) -> str:
    """Where to look now."""
    if submitted:
        return (
            f"look:   hpcscale status {sweep.run_dir} --follow\n"
            f"report: {sweep.run_dir / 'analysis'} once the last job has ended"
        )
    states = sweep.observe()
    wrong = [state for state in states.values() if state.state is State.FAILED]
    lines = []
    for state in wrong[:_SHOWN_FAILURES]:
        lines.append(f"FAILED {state.task.name}: {state.detail}")
    if len(wrong) > _SHOWN_FAILURES:
        lines.append(f"... and {len(wrong) - _SHOWN_FAILURES} more failed tasks")
    cells = cell_tasks(sweep.graph)
    done = sum(states[task.id].state is State.DONE for task in cells)
    lines.append(f"{done} of {len(cells)} cells done")
    if wrong or done < len(cells):
        lines.append("run the same command again to go on with what is missing")
    report = sweep.run_dir / "analysis"
    if states[sweep.analysis.id].state is State.DONE:
        lines.append(f"losses: {report / 'results.csv'}")
        lines.append(f"report: {report / 'report.html'}")
        lines.append(f"fits:   {report / 'fits.csv'}")
    return "\n".join(lines)
