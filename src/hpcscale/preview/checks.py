"""Checks that find faults before anything is submitted."""

from __future__ import annotations

import os
from pathlib import Path

from hpcscale.atomic import read_json
from hpcscale.config.load import place_of
from hpcscale.config.model import is_local
from hpcscale.errors import ConfigError
from hpcscale.opened import Plan, Sweep, stages_of
from hpcscale.plan.resources import world_size
from hpcscale.preview.influence_cost import disk_problem
from hpcscale.preview.outdated import refuse_outdated
from hpcscale.preview.trunk import trunk_problems
from hpcscale.rundir.state import State
from hpcscale.selection.registry import load_method
from hpcscale.train.batching import check_batch
from hpcscale.units import format_count


def check(sweep: Sweep, plan: Plan, dry_run: bool = False) -> list[str]:
    """Notes for the user. Raises HpcscaleError for the first fault that a node would meet later.

    A dry run does not ask the scheduler, and returns as a note what must be done before a sweep.
    """
    _root_is_writable(sweep.run_dir)
    _budgets_share_a_trunk(sweep)
    _budgets_fit_the_pool(sweep)
    _batches_divide(sweep)
    _engine_supports_precision(sweep)
    _context_is_long_enough(sweep)
    refuse_outdated(sweep)
    _files_are_not_pointers(sweep, plan)
    full = disk_problem(sweep, plan)
    if full and not dry_run:
        raise ConfigError(full)
    notes = [full] if full else []
    if sweep.backend.here:
        return notes
    unprepared = _unprepared(sweep, plan)
    if dry_run:
        return notes + unprepared
    if unprepared:
        raise ConfigError(unprepared[0])
    _scheduler_accepts(sweep)
    return []


def _budgets_share_a_trunk(sweep: Sweep) -> None:
    faults = [
        f"{place_of(sweep.path, sweep.overrides, location)}: {problem}"
        for location, problem in trunk_problems(sweep.config)
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _engine_supports_precision(sweep: Sweep) -> None:
    """The precision is the machine's where the sweep file has none."""
    if problem := sweep.config.train.engine_problem(sweep.precision):
        raise ConfigError(f"{sweep.path}: train: {problem}")


def _root_is_writable(run_dir: Path) -> None:
    parent = run_dir
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"root: {run_dir} cannot be created, since {parent} cannot be written by this user; "
            "choose another with --set root=DIR"
        )


def _budgets_fit_the_pool(sweep: Sweep) -> None:
    config = sweep.config
    pool = config.data.pool.tokens
    if pool is None:
        return
    for method_config in config.selection:
        share = load_method(method_config).kept_share()
        if share is None:
            continue
        largest, kept = max(config.budgets), round(share * pool)
        if largest > kept * config.train.epochs:
            raise ConfigError(
                f"{sweep.path}: budget {format_count(largest)} is larger than what selection "
                f"`{method_config.name}` keeps: about {format_count(kept)} of "
                f"{format_count(pool)} pool tokens; lower the budget, raise data.pool.tokens, or "
                f"allow repeats with train.epochs: {-(-largest // max(kept, 1))}"
            )


def _batches_divide(sweep: Sweep) -> None:
    train, data = sweep.config.train, sweep.config.data
    ranks = world_size(sweep.resources("train"))
    check_batch(train.global_batch, data.sequence_length, ranks, train.micro_batch)
    if sweep.config.model.scratch:
        ranks = world_size(sweep.resources("base"))
        check_batch(train.global_batch, data.sequence_length, ranks, train.micro_batch)


def _files_are_not_pointers(sweep: Sweep, plan: Plan) -> None:
    """The corpora of stores that are not done hold content, not pointers to it (Git LFS)."""
    roles = sweep.config.data.roles()
    for role, task in sweep.tasks.corpora().items():
        if plan.states[task.id].state is not State.DONE:
            sweep.sources.listing(roles[role]).refuse_pointers()


def _context_is_long_enough(sweep: Sweep) -> None:
    source = sweep.config.model.source
    if source is None or not is_local(source):
        return
    config = read_json(Path(source).expanduser() / "config.json")
    limit = config.get("n_positions") or config.get("max_position_embeddings")
    length = sweep.config.data.sequence_length
    if limit and length > limit:
        raise ConfigError(
            f"data.sequence_length {length} is longer than the {limit} positions of {source}; "
            f"write {limit} or less"
        )


def _scheduler_accepts(sweep: Sweep) -> None:
    asked = [sweep.resources(stage).partition for stage in stages_of([*sweep.tasks.graph])]
    named = {name for name in (*asked, sweep.profile.partition) if name is not None}
    sweep.backend.check(sweep.profile, named)


def _unprepared(sweep: Sweep, plan: Plan) -> list[str]:
    """A sentence on tasks that need a network where compute nodes have none; otherwise empty."""
    if sweep.profile.network_on_compute:
        return []
    config = sweep.config
    remote = [
        role for role, spec in config.data.roles().items() if spec.corpus == "c4" and not spec.path
    ]
    hub = [
        name
        for name in (config.model.source, config.tokenizer.source)
        if name and not is_local(name)
    ]
    if not (remote or hub):
        return []
    starting = {task.id for task in plan.start}
    missing = [
        t.name
        for t in sweep.tasks.prepared()
        if t.id in starting and plan.states[t.id].state is not State.DONE
    ]
    if not missing:
        return []
    what = ", ".join([*(f"data.{role} (c4)" for role in remote), *dict.fromkeys(hub)])
    return [
        f"{', '.join(missing)} need the network for {what}, and the site profile "
        f"`{sweep.profile.name}` says that compute nodes have none; run `hpcscale data "
        f"prepare {sweep.path}` on a node with a network first, or point `path:` at a download"
    ]
