"""From a plan to work under way: records, specs, then the executor that was chosen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpcscale.backends.display import Display
from hpcscale.errors import Preempted
from hpcscale.opened import Plan, Sweep, exclusive
from hpcscale.preview.outdated import refuse_outdated
from hpcscale.preview.skipped import skipped_lines
from hpcscale.rundir.records import write_records, write_specs
from hpcscale.rundir.state import State

_FOLLOW_EVERY = 5.0


def execute(sweep: Sweep, plan: Plan, say: Callable[[str], None], follow: bool) -> bool:
    """Start the plan; True when all is done, or, detached, when all is submitted."""
    with exclusive(sweep.run_dir):
        write_records(sweep)
        write_specs(sweep.run_dir, plan.start)
        if sweep.executor == "slurm":
            _submit(sweep, plan, say)
        elif sweep.executor == "debug":
            return _run_here(sweep, plan, say)
        else:
            from hpcscale.backends.local import run_local

            with _display(sweep, plan) as display:
                return run_local(sweep, plan, display)
    return _follow_jobs(sweep) if follow else True


def _display(sweep: Sweep, plan: Plan) -> Display:
    done = {name for name, state in plan.states.items() if state.over}
    return Display(sweep.run_dir, [*sweep.graph, sweep.analysis], done)


def _submit(sweep: Sweep, plan: Plan, say: Callable[[str], None]) -> None:
    from hpcscale.backends.slurm import submit
    from hpcscale.cluster.executor import SlurmExecutor

    executor = SlurmExecutor(sweep.profile, sweep.run_dir / "logs", sweep.bad_nodes)
    for array, ids in submit(sweep, plan, executor):
        parents = ", ".join(dict.fromkeys(job.partition("_")[0] for job in ids))
        size = f"{len(ids)} elements as job array" if len(ids) > 1 else "job"
        say(f"submitted {array.stage}: {size} {parents}")


def _run_here(sweep: Sweep, plan: Plan, say: Callable[[str], None]) -> bool:
    """One task after the other in this process, where a debugger can see it."""
    from hpcscale.cluster.environment import launcher_leftovers
    from hpcscale.worker.run import run_tasks

    for name in launcher_leftovers(os.environ):
        del os.environ[name]
    os.environ.update(RANK="0", WORLD_SIZE="1")
    failed = 0
    with _display(sweep, plan) as display:
        for task in plan.start:
            code = run_tasks(sweep.run_dir, [task.id])
            failed = failed or code
            if code:
                display.failed(task, Path(sys.stderr.name if sys.stderr else "stderr"))
            else:
                display.finished(task)
    return not failed


def _follow_jobs(sweep: Sweep) -> bool:
    """Watch a submitted sweep until nothing of it is alive. Ctrl-C stops the watching alone."""
    plan = sweep.plan()
    with _display(sweep, plan) as display:
        seen = {name for name, state in plan.states.items() if state.over}
        while any(state.alive for state in plan.states.values()):
            try:
                time.sleep(_FOLLOW_EVERY)
            except KeyboardInterrupt:
                raise Preempted(
                    f"the jobs go on; watch them with `hpcscale status {sweep.run_dir} --follow`"
                ) from None
            plan = sweep.plan()
            for name, state in plan.states.items():
                if state.over and name not in seen:
                    seen.add(name)
                    display.finished(state.task)
    return not plan.start


def prepare(sweep: Sweep, say: Callable[[str], None]) -> bool:
    """Make what needs the network, and no more, with local processes."""
    from hpcscale.backends.local import run_local
    from hpcscale.plan.graph import Graph

    states = sweep.observe()
    done = {name for name, state in states.items() if state.state is State.DONE}
    needed = Graph(sweep.prepared()).needed(done)
    start = [task for task in needed if not states[task.id].alive]
    refuse_outdated(sweep)
    for line in skipped_lines(sweep):
        say(line)
    if not start:
        say(f"all is prepared in {sweep.run_dir}")
        return True
    with exclusive(sweep.run_dir):
        write_records(sweep)
        write_specs(sweep.run_dir, start)
        with Display(sweep.run_dir, sweep.prepared(), done) as display:
            complete = run_local(sweep, Plan(states, needed, start), display, report=False)
    if complete:
        say(f"prepared in {sweep.run_dir}; now run `hpcscale sweep {sweep.path}`")
    return complete
