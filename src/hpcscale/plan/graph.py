"""Tasks and the graph that they form; how a task runs is not part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from hpcscale.config.fingerprint import fingerprint
from hpcscale.config.resources import StageName
from hpcscale.plan.kinds import Kind
from hpcscale.rundir.layout import task_id
from hpcscale.rundir.spec import Spec
from hpcscale.rundir.task_file import Input, TaskFile

S = TypeVar("S", bound=Spec)
Inputs = Mapping[str, "tuple[AnyTask, ...]"]


@dataclass(frozen=True, eq=False)
class Task(Generic[S]):
    """One task, named by what it makes and by what decides the result.

    inputs: the tasks whose outputs it reads, by their role. follows: a task; where both are
    missing, this one runs right after it in the same process. after: tasks that must have ended,
    done or failed, before this one starts. runs_in: the stage, where it is not the kind's.
    """

    name: str
    kind: Kind[S]
    spec: S
    inputs: Inputs = field(default_factory=dict)
    follows: AnyTask | None = None
    after: tuple[AnyTask, ...] = ()
    runs_in: StageName | None = None

    @property
    def stage(self) -> StageName:
        return self.runs_in or self.kind.stage

    @cached_property
    def key(self) -> str:
        parts = {
            label: [task.key for task in tasks]
            for label, tasks in self.inputs.items()
            if label not in self.kind.unkeyed
        }
        decides = self.kind.decides(self.spec)
        return fingerprint({"kind": self.kind.name, "decides": decides, "inputs": parts})

    @cached_property
    def id(self) -> str:
        """The task's directory inside the run directory."""
        return self.name if self.kind.fixed else task_id(self.name, self.key)

    def upstream(self) -> Iterator[AnyTask]:
        """The tasks whose outputs this one reads."""
        for tasks in self.inputs.values():
            yield from tasks

    def file(self) -> TaskFile:
        """All that a worker needs to run the task."""
        return TaskFile(
            id=self.id,
            name=self.name,
            kind=self.kind.name,
            stage=self.stage,
            key=self.key,
            decides=self.kind.decides(self.spec),
            params=self.spec.runtime(),
            inputs={
                label: tuple(Input(id=task.id, key=task.key) for task in tasks)
                for label, tasks in self.inputs.items()
            },
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.id == self.id


AnyTask = Task[Any]


class Graph:
    """The targets and all tasks that they need; each comes after its inputs."""

    def __init__(self, targets: Iterable[AnyTask]) -> None:
        self.targets = tuple(targets)
        self.tasks: dict[str, AnyTask] = {}
        self.depth: dict[str, int] = {}
        for target in self.targets:
            self._add(target)

    def _add(self, task: AnyTask) -> None:
        if task.id in self.tasks:
            return
        above = [*task.upstream(), *task.after]
        for one in above:
            self._add(one)
        self.tasks[task.id] = task
        self.depth[task.id] = 1 + max((self.depth[one.id] for one in above), default=-1)

    def __iter__(self) -> Iterator[AnyTask]:
        return iter(self.tasks.values())

    def needed(self, done: set[str]) -> list[AnyTask]:
        """What must run so that every target is done, inputs first.

        A task that is not done is not needed where all tasks that read it are done.
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
