"""Tasks and the graph that they form; nothing here knows how a task is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from hpcscale.config.fingerprint import fingerprint
from hpcscale.config.resources import StageName


@dataclass(frozen=True)
class Task:
    """One array element's work, named by what it makes and by what decides the result.

    ``decides`` holds everything that the result depends on, the keys of the inputs apart;
    ``params`` what the step reads beside it (batch sizes, shard bounds, labels).
    """

    name: str
    kind: str
    stage: StageName
    decides: dict[str, Any]
    inputs: dict[str, tuple[Task, ...]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    #: Runs in the same process right behind this task, where both are missing.
    follows: Task | None = None
    #: Labels of inputs that the result does not depend on.
    unkeyed: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def key(self) -> str:
        parts = {
            label: [task.key for task in tasks]
            for label, tasks in self.inputs.items()
            if label not in self.unkeyed
        }
        return fingerprint({"kind": self.kind, "decides": self.decides, "inputs": parts})

    @property
    def id(self) -> str:
        """The task's directory inside the run directory."""
        return f"{self.name}-{self.key[:8]}"

    def upstream(self) -> Iterator[Task]:
        """The tasks whose outputs this one reads."""
        for tasks in self.inputs.values():
            yield from tasks

    def spec(self) -> dict[str, Any]:
        """All that a worker needs to run the task, as JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "stage": self.stage,
            "key": self.key,
            "decides": self.decides,
            "params": self.params,
            "inputs": {
                label: [{"id": task.id, "key": task.key} for task in tasks]
                for label, tasks in self.inputs.items()
            },
        }

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.id == self.id


class MergedTask(Task):
    """Keyed by what decides its result and not by its shards: another number leaves it valid."""

    unkeyed = ("shards",)


class TrainingTask(Task):
    """Keyed by what decides its result and not by the state that it goes on from: whether an
    earlier part was trained here or elsewhere leaves it valid."""

    unkeyed = ("state",)


class Graph:
    """The tasks of a sweep, every task behind its inputs."""

    def __init__(self, targets: Iterable[Task]) -> None:
        self.targets = tuple(targets)
        self.tasks: dict[str, Task] = {}
        self.depth: dict[str, int] = {}
        for target in self.targets:
            self._add(target)

    def _add(self, task: Task) -> None:
        if task.id in self.tasks:
            return
        for above in task.upstream():
            self._add(above)
        self.tasks[task.id] = task
        self.depth[task.id] = 1 + max((self.depth[a.id] for a in task.upstream()), default=-1)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def needed(self, done: set[str]) -> list[Task]:
        """What must run so that every target is done, inputs first.

        A task that is not done but whose readers all are is not needed.
        """
        wanted: set[str] = set()
        stack = [task for task in self.targets if task.id not in done]
        while stack:
            task = stack.pop()
            if task.id in wanted:
                continue
            wanted.add(task.id)
            stack += [above for above in task.upstream() if above.id not in done]
        return [task for task in self if task.id in wanted]
