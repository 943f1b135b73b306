"""A sweep from its YAML file to running tasks: open, plan, check, execute.

``hpcscale sweep`` calls ``open_sweep``, ``Sweep.plan``, ``check`` (preview/checks.py) and
``execute``, in this order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from hpcscale.atomic import read_json
from hpcscale.backends.base import Say
from hpcscale.backends.display import Display
from hpcscale.backends.registry import choose
from hpcscale.config.load import load_sweep
from hpcscale.config.profile import load_profile
from hpcscale.errors import ConfigError, Preempted
from hpcscale.opened import Plan, Sweep, run_directory
from hpcscale.plan.build import build_tasks
from hpcscale.plan.fingerprints import SourceFingerprints
from hpcscale.plan.graph import AnyTask, Graph
from hpcscale.plan.resources import resolve_precision
from hpcscale.plan.settings import resolved
from hpcscale.preview.outdated import refuse_outdated
from hpcscale.preview.skipped import skipped_lines
from hpcscale.rundir.layout import CONFIG, MANIFEST, SITE
from hpcscale.rundir.lock import exclusive
from hpcscale.rundir.records import Call, write_records, write_task_files

_FOLLOW_EVERY = 5.0


def open_sweep(
    path: Path,
    overrides: tuple[str, ...],
    executor: str,
    site: str | None = None,
    dry_run: bool = False,
) -> Sweep:
    """Read and check ``path``, and build its tasks. Raises HpcscaleError; writes only caches.

    executor: the name of a back end, or ``auto``. A dry run does not need a scheduler.
    """
    config = load_sweep(path, overrides)
    profile = load_profile(site or config.resources.site)
    backend = choose(executor, dry_run)
    machine = backend.machine(profile)
    sources = SourceFingerprints(cache_directory() / "sources.json")
    tasks = build_tasks(config, resolve_precision(config, machine), sources)
    return Sweep(path, overrides, config, backend, profile, machine, tasks, sources)


def reopen(run_dir: Path) -> Sweep:
    """The sweep of a run directory. Raises ConfigError where ``run_dir`` is not one."""
    file = run_dir / CONFIG
    if not (file.exists() and (run_dir / MANIFEST).exists()):
        raise ConfigError(
            f"{run_dir} is not a run directory (it has no {CONFIG} and {MANIFEST}); "
            "`hpcscale sweep FILE` prints the one of a sweep file"
        )
    manifest = read_json(run_dir / MANIFEST)
    # The directory may have been moved or mounted elsewhere since.
    here = (f"root={run_dir.absolute().parent}", f"name={run_dir.absolute().name}")
    site = str(run_dir / SITE) if (run_dir / SITE).exists() else manifest["site"]
    # The sweep is only read, so that a scheduler need not answer here.
    return open_sweep(file, here, manifest["executor"], site, dry_run=True)


def execute(sweep: Sweep, plan: Plan, say: Say, follow: bool) -> bool:
    """Start the plan; True when all is done or, for a queue that is not followed, submitted."""
    started = _start(sweep, plan, sweep.tasks.every(), say)
    if sweep.backend.here:
        return started and len(plan.start) == len(plan.needed)
    return _follow(sweep) if follow else started


def prepare(sweep: Sweep, say: Say) -> bool:
    """Run only the tasks that may need the network; True when they are done."""
    targets = sweep.tasks.prepared()
    plan = sweep.plan_of(Graph(targets))
    refuse_outdated(sweep)
    for line in skipped_lines(sweep):
        say(line)
    if not plan.start:
        say(f"everything is prepared in {sweep.run_dir}")
        return True
    complete = _start(sweep, plan, targets, say) and len(plan.start) == len(plan.needed)
    if complete:
        say(f"prepared in {sweep.run_dir}; now run `hpcscale sweep {sweep.path}`")
    return complete


def _start(sweep: Sweep, plan: Plan, shown: Sequence[AnyTask], say: Say) -> bool:
    """Write records and task files, then let the back end run or submit the plan."""
    over = {name for name, state in plan.states.items() if state.over}
    root = str(run_directory(sweep.config).parent.absolute())
    call = Call(
        sweep.path,
        sweep.overrides,
        resolved(sweep.config, root),
        sweep.backend.name,
        sweep.precision,
        sweep.profile,
    )
    with exclusive(sweep.run_dir):
        write_records(sweep.run_dir, call)
        write_task_files(sweep.run_dir, [task.file() for task in plan.start])
        display = Display(sweep.run_dir, shown, over)
        return sweep.backend.start(sweep.submission(plan), display, say)


def _follow(sweep: Sweep) -> bool:
    """Watch a submitted sweep until no task waits or runs. Ctrl-C stops only the watching."""
    plan = sweep.plan()
    seen = {name for name, state in plan.states.items() if state.over}
    with Display(sweep.run_dir, sweep.tasks.every(), seen) as display:
        while plan.alive:
            try:
                time.sleep(_FOLLOW_EVERY)
            except KeyboardInterrupt:
                raise Preempted(
                    f"the jobs continue; watch them with `hpcscale status {sweep.run_dir} --follow`"
                ) from None
            plan = sweep.plan()
            for name, state in plan.states.items():
                if state.over and name not in seen:
                    seen.add(name)
                    display.finished(state.task)
    return not plan.start


def cache_directory() -> Path:
    """The folder with hashes of source files from earlier calls; it may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hpcscale"
