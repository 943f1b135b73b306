"""Plans without corpora, and the contexts of workers without a plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from hpcscale.backends.base import Submission
from hpcscale.config.data import CorpusConfig
from hpcscale.config.load import load_sweep
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.config.sweep import SweepConfig
from hpcscale.opened import Sweep
from hpcscale.plan.array_tasks import arrays
from hpcscale.plan.build import SweepTasks, build_tasks
from hpcscale.plan.graph import AnyTask, Task
from hpcscale.plan.kinds import Kind
from hpcscale.rundir.spec import Spec
from hpcscale.rundir.state import Job
from hpcscale.rundir.task_file import Input, TaskFile
from hpcscale.sweep import open_sweep
from hpcscale.worker.context import Context

S = TypeVar("S", bound=Spec)
SWEEPS = Path(__file__).parents[1] / "sweeps"
QUICKSTART = SWEEPS / "quickstart.yaml"
_LOCAL = {"config.json": "c" * 64, "model.safetensors": "m" * 64, "tokenizer.json": "t" * 64}
#: The sweeps of golden/keys.json: file, overrides, and what a local directory holds.
GOLDEN_SWEEPS: dict[str, tuple[str, tuple[str, ...], dict[str, str] | None]] = {
    **{path.stem: (path.name, (), None) for path in sorted(SWEEPS.glob("*.yaml"))},
    "quickstart-local-model": (
        "quickstart.yaml",
        ("model=./here", "tokenizer=./here", "data.packing=isolate"),
        _LOCAL,
    ),
    "influence-capture": ("influence.yaml", ("selection.1.way=capture",), None),
    "influence-direct": ("influence.yaml", ("selection.1.way=direct",), None),
}

#: GPT-2 small on the documentation of the standard library; only ever planned.
PLAN = """\
name: plan
root: {root}
model: {{scratch: {{layers: 12, width: 768, heads: 12}}}}
tokenizer: {{train: 50257}}
data:
  sequence_length: 1024
  base: {{corpus: stdlib, tokens: 1M}}
  pool: {{corpus: stdlib, tokens: 48M}}
  eval: {{corpus: stdlib, tokens: 96k}}
budgets: [6M]
seeds: [0]
"""


@dataclass(frozen=True)
class FixedSources:
    """Fingerprints that do not depend on this machine. local: of every directory; None: what is
    named is a hub id."""

    local: dict[str, str] | None = None

    def corpus(self, spec: CorpusConfig) -> object:
        return spec.corpus

    def directory(self, source: str) -> dict[str, str] | None:
        return self.local


def tasks_of(
    config: SweepConfig, precision: str = "fp32", local: dict[str, str] | None = None
) -> SweepTasks:
    return build_tasks(config, precision, FixedSources(local))


def plan_of(file: Path, *overrides: str) -> SweepTasks:
    """The tasks of a sweep file; nothing outside the file is read."""
    return tasks_of(load_sweep(file, overrides))


def golden_tasks(name: str) -> SweepTasks:
    """The tasks whose keys golden/keys.json holds."""
    file, overrides, local = GOLDEN_SWEEPS[name]
    config = load_sweep(SWEEPS / file, (*overrides, "resources.score.shards=2"))
    return tasks_of(config, "bf16", local)


def of_kind(tasks: Iterable[AnyTask], kind: Kind[S]) -> dict[str, Task[S]]:
    """The tasks of one kind by name."""
    return {task.name: task for task in tasks if task.kind is kind}


def keys(tasks: Iterable[AnyTask], kind: Kind[S]) -> dict[str, str]:
    return {name: task.key for name, task in of_kind(tasks, kind).items()}


def open_plan(folder: Path, *overrides: str, executor: str = "local", site: str = "") -> Sweep:
    """``PLAN`` as a command opens it. site: the text of a profile; a dry run where there is one."""
    file = folder / "plan.yaml"
    file.write_text(PLAN.format(root=folder))
    if not site:
        return open_sweep(file, overrides, executor)
    (folder / "site.yaml").write_text(site)
    return open_sweep(file, overrides, executor, str(folder / "site.yaml"), dry_run=True)


@cache
def some_task(kind: Kind[S], *overrides: str) -> Task[S]:
    """A task of the quickstart."""
    return next(iter(of_kind(plan_of(QUICKSTART, *overrides).graph, kind).values()))


def task_file(task: AnyTask, id: str, **inputs: tuple[str, str]) -> TaskFile:
    """The file of ``task`` under another id, with the key ``key``; inputs by id and key."""
    given = {label: (Input(id=above, key=key),) for label, (above, key) in inputs.items()}
    changed = {"id": id, "name": id, "key": "key", "inputs": given}
    return task.file().model_copy(update=changed)


def context_of(run_dir: Path, task: Task[S], id: str, **inputs: tuple[str, str]) -> Context[S]:
    """``task_file`` as its worker has it, on one rank; the task's directory is made."""
    (run_dir / id).mkdir(parents=True, exist_ok=True)
    return Context(run_dir, task_file(task, id, **inputs), task.kind, task.spec)


def submission_of(
    run_dir: Path,
    tasks: SweepTasks,
    start: Sequence[AnyTask] | None = None,
    done: Iterable[AnyTask] = (),
    jobs: dict[str, Job] | None = None,
    **asked: int,
) -> Submission:
    """``start`` of a sweep, or all of it, as a back end takes it. asked: resources of each task."""
    start = tasks.every() if start is None else start
    one = Resources.model_validate({"gpus": 0, "cpus": 1, **asked})
    return Submission(
        name="plan",
        run_dir=run_dir,
        profile=SiteProfile(name="here"),
        tasks=tuple(start),
        arrays=tuple(arrays(start, tasks.depth, lambda stage: one)),
        done=frozenset(task.id for task in done),
        jobs=jobs or {},
    )
