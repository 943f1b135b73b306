"""An opened sweep: its config, tasks, machine and run directory, and the tasks that must run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpcscale.backends.base import Backend, Submission
from hpcscale.backends.registry import liveness
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources, StageName
from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.array_tasks import arrays
from hpcscale.plan.build import SweepTasks
from hpcscale.plan.fingerprints import SourceFingerprints
from hpcscale.plan.graph import AnyTask, Graph
from hpcscale.plan.kinds import EVALUATE, TRUNK
from hpcscale.plan.resources import Machine, resolve
from hpcscale.rundir.attempts import killed_jobs
from hpcscale.rundir.state import State, TaskState, observe

States = dict[str, TaskState[AnyTask]]


@dataclass(frozen=True)
class Plan:
    """states: of every task. needed: tasks that must run. start: those of them not alive."""

    states: States
    needed: list[AnyTask]
    start: list[AnyTask]

    @property
    def done(self) -> frozenset[str]:
        return frozenset(name for name, s in self.states.items() if s.state is State.DONE)

    @property
    def alive(self) -> bool:
        """Whether anything of the sweep waits or runs, as far as is known."""
        return any(state.alive for state in self.states.values())


@dataclass
class Sweep:
    """What planning, running and showing one sweep share."""

    path: Path
    overrides: tuple[str, ...]
    config: SweepConfig
    backend: Backend
    profile: SiteProfile
    machine: Machine
    tasks: SweepTasks
    sources: SourceFingerprints

    @property
    def run_dir(self) -> Path:
        return run_directory(self.config)

    @property
    def precision(self) -> str:
        return self.tasks.shared.sequences.precision

    @cached_property
    def _tasks_of_stage(self) -> Counter[StageName]:
        # Segments of trunks do not count: a cell gets as many threads as without a trunk.
        tasks = self.tasks.graph
        return Counter(t.stage for t in tasks if t.follows is None and t.kind is not TRUNK)

    def resources(self, stage: StageName) -> Resources:
        """What a task of the stage asks for, with every ``auto`` replaced."""
        return resolve(self.config, stage, self.machine, self._tasks_of_stage[stage])

    @cached_property
    def bad_nodes(self) -> list[str]:
        """Nodes that went down under this sweep twice or more."""
        if self.backend.here:
            return []
        jobs = {j for task in self.tasks.graph for j in killed_jobs(self.run_dir / task.id)}
        return self.backend.bad_nodes(sorted(jobs))

    def observe(self) -> States:
        return observe(self.run_dir, self.tasks.every(), liveness)

    def plan(self) -> Plan:
        """The tasks that must run so that every cell and the analysis are done."""
        plan, analysis = self.plan_of(self.tasks.graph), self.tasks.analysis
        state = plan.states[analysis.id]
        new_losses = any(task.kind is EVALUATE for task in plan.start)
        if (new_losses or state.state is not State.DONE) and not state.alive:
            return Plan(plan.states, [*plan.needed, analysis], [*plan.start, analysis])
        return plan

    def plan_of(self, graph: Graph) -> Plan:
        """The tasks that must run so that the targets of ``graph`` are done."""
        states = self.observe()
        done = {name for name, state in states.items() if state.state is State.DONE}
        needed = graph.needed(done)
        return Plan(states, needed, [task for task in needed if not states[task.id].alive])

    def submission(self, plan: Plan) -> Submission:
        """The plan in the form that a back end takes."""
        return Submission(
            name=self.config.name,
            run_dir=self.run_dir,
            profile=self.profile,
            tasks=tuple(plan.start),
            arrays=tuple(arrays(plan.start, self.tasks.depth, self.resources)),
            done=plan.done,
            jobs={n: s.job for n, s in plan.states.items() if s.alive and s.job},
            avoid=tuple(self.bad_nodes),
        )


def run_directory(config: SweepConfig) -> Path:
    return Path(os.path.expandvars(config.root)).expanduser() / config.name


def stages_of(tasks: Sequence[AnyTask]) -> list[StageName]:
    """The stages of tasks, each once, in their order."""
    return list(dict.fromkeys(task.stage for task in tasks))
