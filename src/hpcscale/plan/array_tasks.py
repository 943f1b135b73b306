"""Array elements: which tasks run one after the other in the same processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcscale.config.resources import StageName
from hpcscale.plan.graph import Task

#: Light tasks that share an element; a process costs more than any of them.
_BUNDLE = {"select": 64}


@dataclass(frozen=True)
class ArrayTask:
    """Tasks of one stage, run in order by the same ranks."""

    tasks: tuple[Task, ...]

    @property
    def stage(self) -> StageName:
        return self.tasks[0].stage

    @property
    def ids(self) -> list[str]:
        return [task.id for task in self.tasks]

    def waits_for(self) -> set[str]:
        """Ids of the tasks outside the element that it reads."""
        own = set(self.ids)
        return {above.id for task in self.tasks for above in task.upstream()} - own


def group(tasks: Iterable[Task]) -> list[ArrayTask]:
    """Tasks in graph order as elements: followers behind their task, light tasks bundled."""
    chains: dict[str, list[Task]] = {}
    bundles: dict[object, list[Task]] = {}
    for task in tasks:
        if task.follows is not None and task.follows.id in chains:
            chains[task.follows.id].append(task)
            continue
        size = _BUNDLE.get(task.kind, 1)
        # Only tasks that wait for the same inputs, so that none waits for another's.
        alike = (task.kind, frozenset(above.id for above in task.upstream()))
        open_bundle = bundles.get(alike, [])
        if open_bundle and len(open_bundle) < size:
            open_bundle.append(task)
            continue
        chains[task.id] = bundles[alike] = [task]
    return [ArrayTask(tuple(chain)) for chain in chains.values()]
