"""Turning a plan into job arrays: one a stage, depth and resource shape, ``afterany`` between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcscale.atomic import write_json
from hpcscale.config.resources import Resources, StageName
from hpcscale.opened import Plan, Sweep
from hpcscale.plan.array_tasks import ArrayTask, group
from hpcscale.rundir.state import JOB

if TYPE_CHECKING:
    from hpcscale.cluster.executor import SlurmExecutor


@dataclass(frozen=True)
class Array:
    """One job array: elements of equal shape whose inputs come from earlier arrays."""

    stage: StageName
    resources: Resources
    elements: tuple[ArrayTask, ...]

    @property
    def payloads(self) -> list[list[str]]:
        return [element.ids for element in self.elements]


def arrays(sweep: Sweep, plan: Plan) -> list[Array]:
    """The arrays of a plan, each behind those that it waits for."""
    by_shape: dict[tuple[int, StageName], list[ArrayTask]] = {}
    tasks = [task for task in plan.start if task is not sweep.analysis]
    for element in group(tasks):
        depth = max(sweep.graph.depth[task.id] for task in element.tasks[:1])
        by_shape.setdefault((depth, element.stage), []).append(element)
    ordered = [
        Array(stage, sweep.resources(stage), tuple(elements))
        for (_, stage), elements in sorted(by_shape.items(), key=lambda item: item[0])
    ]
    if sweep.analysis in plan.start:
        last = ArrayTask((sweep.analysis,))
        ordered.append(Array("analyse", sweep.resources("analyse"), (last,)))
    return ordered


def submit(sweep: Sweep, plan: Plan, executor: SlurmExecutor) -> Iterator[tuple[Array, list[str]]]:
    """Submit array by array and yield each with its job ids, so that what was submitted is known
    even where a later submission is refused."""
    jobs = {name: state.job for name, state in plan.states.items() if state.alive and state.job}
    for array in arrays(sweep, plan):
        if array.stage == "analyse":
            waits_for = set(jobs)
        else:
            waits_for = {name for element in array.elements for name in element.waits_for()}
        parents = {job.partition("_")[0] for name in waits_for if (job := jobs.get(name))}
        ids = executor.submit(
            stage=array.stage,
            name=f"{sweep.config.name}-{array.stage}",
            resources=array.resources,
            payloads=array.payloads,
            run_dir=sweep.run_dir,
            dependencies=sorted(parents),
        )
        for element, job in zip(array.elements, ids, strict=True):
            for task in element.tasks:
                record = {"executor": "slurm", "id": job, "at": time.time()}
                write_json(sweep.run_dir / task.id / JOB, record)
                jobs[task.id] = job
        yield array, ids
