"""Array tasks (tasks that run one after the other in the same processes) and arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpcscale.config.resources import Resources, StageName
from hpcscale.plan.graph import AnyTask


@dataclass(frozen=True)
class ArrayTask:
    """Tasks of one stage, run in order by the same ranks."""

    tasks: tuple[AnyTask, ...]

    @property
    def stage(self) -> StageName:
        return self.tasks[0].stage

    @property
    def ids(self) -> list[str]:
        return [task.id for task in self.tasks]

    def reads(self) -> set[str]:
        """Ids of the tasks outside the array task that must be done before it starts."""
        return {above.id for task in self.tasks for above in task.upstream()} - set(self.ids)

    def follows(self) -> set[str]:
        """Ids of the tasks that must have ended, done or failed, before it starts."""
        return {above.id for task in self.tasks for above in task.after}


@dataclass(frozen=True)
class Array:
    """Array tasks of equal shape, whose inputs come from earlier arrays."""

    stage: StageName
    resources: Resources
    array_tasks: tuple[ArrayTask, ...]

    @property
    def payloads(self) -> list[list[str]]:
        """The ids of the tasks of each array task."""
        return [one.ids for one in self.array_tasks]

    def waits_for(self) -> set[str]:
        """Ids of all tasks that must have ended before it starts."""
        return {name for one in self.array_tasks for name in one.reads() | one.follows()}


def group(tasks: Iterable[AnyTask]) -> list[ArrayTask]:
    """Group tasks, given in graph order, into array tasks.

    A follower joins the array task of the task that it follows; light tasks are bundled.
    """
    chains: dict[str, list[AnyTask]] = {}
    bundles: dict[object, list[AnyTask]] = {}
    for task in tasks:
        if task.follows is not None and task.follows.id in chains:
            chains[task.follows.id].append(task)
            continue
        # A bundle has equal inputs, so that no task waits for an input that only another needs.
        alike = (task.kind.name, frozenset(above.id for above in task.upstream()))
        open_bundle = bundles.get(alike, [])
        if open_bundle and len(open_bundle) < task.kind.bundle:
            open_bundle.append(task)
            continue
        chains[task.id] = bundles[alike] = [task]
    return [ArrayTask(tuple(chain)) for chain in chains.values()]


def arrays(
    tasks: Sequence[AnyTask],
    depth: Mapping[str, int],
    resources: Callable[[StageName], Resources],
) -> list[Array]:
    """One array for each stage and depth in the graph; it comes after the arrays it waits for."""
    by_shape: dict[tuple[int, StageName], list[ArrayTask]] = {}
    for one in group(tasks):
        by_shape.setdefault((depth[one.ids[0]], one.stage), []).append(one)
    return [
        Array(stage, resources(stage), tuple(found))
        for (_, stage), found in sorted(by_shape.items(), key=lambda item: item[0])
    ]
