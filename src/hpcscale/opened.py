"""A sweep opened: its config, graph, machine and run directory, checked before anything starts."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hpcscale.config.load import load_sweep
from hpcscale.config.profile import SiteProfile, load_profile
from hpcscale.config.resources import Resources, StageName
from hpcscale.config.sweep import SweepConfig
from hpcscale.errors import ClusterError, ConfigError
from hpcscale.plan.analysis import Analysis, analysis_task
from hpcscale.plan.fingerprints import SourceFingerprints, absolute_paths, absolute_source
from hpcscale.plan.graph import Graph, Task
from hpcscale.plan.resources import Machine, machine_for, resolve, resolve_precision
from hpcscale.plan.stages import Pipeline, cell_tasks
from hpcscale.preview.reliability import bad_nodes
from hpcscale.rundir.state import State, TaskState, observe

ExecutorName = Literal["slurm", "local", "debug"]


@dataclass
class Sweep:
    """Everything that planning, running and looking at one sweep shares."""

    path: Path
    overrides: tuple[str, ...]
    config: SweepConfig
    executor: ExecutorName
    profile: SiteProfile
    machine: Machine
    pipeline: Pipeline
    graph: Graph
    analysis: Analysis
    sources: SourceFingerprints

    @property
    def run_dir(self) -> Path:
        return run_directory(self.config)

    @cached_property
    def _tasks_of_stage(self) -> Counter[str]:
        # A trunk is no part of the count: its numbers of threads are those of runs by themselves.
        followers = Counter(
            task.stage for task in self.graph if task.follows is None and task.kind != "trunk"
        )
        return Counter(followers)

    def resources(self, stage: StageName) -> Resources:
        return resolve(self.config, stage, self.machine, self._tasks_of_stage[stage])

    @cached_property
    def bad_nodes(self) -> list[str]:
        return bad_nodes(self)

    def observe(self) -> dict[str, TaskState]:
        return observe(self.run_dir, [*self.graph, self.analysis])

    def prepared(self) -> list[Task]:
        """What needs the network at most: tokenizer, token stores and fetched models."""
        fetched = [task for task in self.graph if task.kind == "fetch"]
        return [*self.pipeline.data_targets(), *fetched]

    def plan(self) -> Plan:
        states = self.observe()
        done = {name for name, state in states.items() if state.state is State.DONE}
        needed = self.graph.needed(done)
        start = [task for task in needed if not states[task.id].alive]
        new_losses = any(task.kind == "evaluate" for task in start)
        analysis = states[self.analysis.id]
        if (new_losses or analysis.state is not State.DONE) and not analysis.alive:
            start.append(self.analysis)
        return Plan(states, needed, start)


@dataclass(frozen=True)
class Plan:
    """states: of every task. needed: not done and wanted. start: needed and not alive."""

    states: dict[str, TaskState]
    needed: list[Task]
    start: list[Task]


def run_directory(config: SweepConfig) -> Path:
    return Path(os.path.expandvars(config.root)).expanduser() / config.name


def cache_directory() -> Path:
    """Where hashes of source files are kept between calls; nothing there is needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hpcscale"


def open_sweep(
    path: Path,
    overrides: tuple[str, ...],
    executor: str,
    site: str | None = None,
    dry_run: bool = False,
) -> Sweep:
    """Read, check and plan ``path``. Raises HpcscaleError before anything is written but caches.

    A dry run is planned for Slurm also where none answers.
    """
    config = load_sweep(path, overrides)
    profile = load_profile(site or config.resources.site)
    chosen = choose_executor(executor, dry_run)
    machine = machine_for(chosen, profile)
    sources = SourceFingerprints(cache_directory() / "sources.json")
    pipeline = Pipeline(
        config,
        resolve_precision(config, machine),
        sources.corpus,
        sources.directory,
        score_shards=config.resources.of("score").shards,
    )
    graph = pipeline.graph()
    analysis = analysis_task(config, cell_tasks(graph), pipeline)
    return Sweep(
        path, overrides, config, chosen, profile, machine, pipeline, graph, analysis, sources
    )


def choose_executor(name: str, dry_run: bool = False) -> ExecutorName:
    """``auto`` is Slurm where it answers, else this machine's processes."""
    if name in ("local", "debug"):
        return name  # type: ignore[return-value]
    from hpcscale.cluster.liveness import slurm_available

    if dry_run or slurm_available():
        return "slurm"
    if name == "slurm":
        raise ClusterError(
            "--executor slurm: no Slurm answers here (`sinfo` fails); log in to a node of the "
            "cluster, or run on this machine with --executor local"
        )
    return "local"


@contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Hold the run directory against a second sweep on this machine.

    Raises ConfigError where the directory cannot be written, ClusterError where another holds it.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = open(run_dir / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(
            f"root: {run_dir} cannot be written ({error.strerror}); choose another with "
            "--set root=DIR"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ClusterError(
                f"another sweep (process {handle.read().strip() or 'unknown'}) runs in {run_dir}; "
                f"watch it with `hpcscale status {run_dir} --follow`"
            ) from None
        except OSError:
            # Some parallel file systems are mounted without locks; liveness checks remain.
            pass
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def describe(sweep: Sweep) -> dict[str, Any]:
    """The resolved config as a sweep file that can be read from any directory."""
    values = sweep.config.plain()
    for spec in values["data"].values():
        if isinstance(spec, dict) and spec["path"]:
            spec["path"] = absolute_paths(spec["path"])
    for part in (values["model"], values["tokenizer"]):
        if part["source"]:
            part["source"] = absolute_source(part["source"])
    return values | {"root": str(run_directory(sweep.config).parent.absolute())}
