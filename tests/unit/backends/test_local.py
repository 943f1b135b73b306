"""What runs when on this machine: inputs first, as much as fits, and on past failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import read_json, write_json
from hpcscale.backends import local
from hpcscale.backends.display import Display
from hpcscale.backends.local import Local
from hpcscale.plan.build import SweepTasks
from hpcscale.plan.kinds import EVALUATE, PERPLEXITY, SELECT, STORE, TRAIN
from hpcscale.rundir.attempts import record_start
from hpcscale.rundir.state import Job, write_job
from planning import QUICKSTART, of_kind, plan_of, submission_of

SMALL = ("budgets=[64k, 128k]", "seeds=[0]")


@dataclass
class Machine:
    """Starts processes that end the next time they are asked, well unless ``codes`` says so."""

    run_dir: Path
    codes: dict[str, int] = field(default_factory=dict)
    started: list[list[str]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    before: dict[str, set[str]] = field(default_factory=dict)

    def start(self, run_dir: Path, task_ids: list[str], **asked: Any) -> _Process:
        for task in task_ids:
            (run_dir / task).mkdir(parents=True, exist_ok=True)
        marked = {str(p.parent.relative_to(run_dir)) for p in run_dir.rglob("done.json")}
        self.before[task_ids[0]] = marked
        self.started.append(task_ids)
        self.running += 1
        self.most = max(self.most, self.running)
        return _Process(self, task_ids)


@dataclass
class _Process:
    machine: Machine
    task_ids: list[str]

    def poll(self) -> int:
        worst = 0
        for task in self.task_ids:
            folder = self.machine.run_dir / task
            code = self.machine.codes.get(task.rpartition("-")[0], 0)
            worst = worst or code
            if code == 0 and not worst:
                write_json(folder / "done.json", {"facts": {"loss": 1.0}})
            elif code > 0:
                write_json(folder / "failed.json", {"error": "it does not"})
            elif code < 0:
                record_start(folder, job=None, world_size=1, from_step=None)
        self.machine.running -= 1
        return worst


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Four cores and no GPU."""
    made, slots = Machine(tmp_path), local._Slots
    monkeypatch.setattr(local, "start", made.start)
    monkeypatch.setattr(local, "_Slots", lambda: slots(cores=4, gpus=[]))
    monkeypatch.setattr(local, "_POLL", 0.0)
    return made


def run(tasks: SweepTasks, machine: Machine, **asked: int) -> bool:
    submission = submission_of(machine.run_dir, tasks, **asked)
    return Local().start(submission, Display(machine.run_dir, submission.tasks, set()), print)


def names(machine: Machine) -> list[str]:
    """The tasks that were started, in order."""
    return [task.rpartition("-")[0] or task for ids in machine.started for task in ids]


def test_nothing_starts_before_what_it_reads(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    assert run(tasks, machine)
    assert sorted(names(machine)) == sorted(task.name for task in tasks.every())
    by_id = {task.id: task for task in tasks.every()}
    for ids in machine.started:
        reads = {above.id for task in ids for above in by_id[task].upstream()} - set(ids)
        assert reads <= machine.before[ids[0]]


def test_no_more_runs_than_the_cores_carry(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    assert run(tasks, machine, cpus=2)
    assert machine.most == 2
    machine.most = 0
    assert run(tasks, machine, cpus=1)
    assert 2 < machine.most <= 4


def test_what_is_larger_than_the_machine_runs_alone(machine: Machine) -> None:
    assert run(plan_of(QUICKSTART, *SMALL), machine, cpus=9)
    assert machine.most == 1


def test_a_failure_leaves_out_what_needs_it_and_nothing_else(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    machine.codes = {"scores/perplexity-base/shard-00000": 1}
    assert not run(tasks, machine)
    started = set(names(machine))
    cells = of_kind(tasks.graph, TRAIN)
    assert {name for name in cells if name in started} == {n for n in cells if "random" in n}
    assert {n for n in of_kind(tasks.graph, SELECT) if n in started} == {
        "selections/random-64k-s0",
        "selections/random-128k-s0",
    }
    assert "scores/perplexity-base/merged" not in started


def test_the_analysis_runs_last_and_after_failures_too(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    machine.codes = {"cells/random-64k-s0": 1}
    assert not run(tasks, machine)
    assert names(machine)[-1] == "analysis"
    done = {str(p.parent.relative_to(machine.run_dir)) for p in machine.run_dir.rglob("done.json")}
    failed = {
        task.id
        for task in tasks.every()
        if task.name.endswith("/random-64k-s0") and task.kind in (TRAIN, EVALUATE)
    }
    assert done == {task.id for task in tasks.every()} - failed


def test_a_store_that_failed_stops_all_but_the_analysis(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    (first, *_) = of_kind(tasks.graph, STORE)
    machine.codes = {"data/tokenizer": 1}
    assert not run(tasks, machine)
    assert first not in names(machine)
    assert names(machine) == ["data/tokenizer", "analysis"]


def test_a_kill_from_outside_is_on_record(machine: Machine) -> None:
    machine.codes = {"cells/random-64k-s0": -9}
    tasks = plan_of(QUICKSTART, *SMALL)
    assert not run(tasks, machine)
    folder = machine.run_dir / of_kind(tasks.graph, TRAIN)["cells/random-64k-s0"].id
    assert read_json(folder / "failed.json")["error"] == "killed by signal 9 (SIGKILL)"
    assert not (folder / "running.json").exists()


def test_the_end_of_an_earlier_job_is_forgotten_before_a_task_starts(machine: Machine) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    (task,) = of_kind(tasks.graph, PERPLEXITY).values()
    write_job(machine.run_dir / task.id, Job("slurm", "7"), 0.0)
    write_json(machine.run_dir / task.id / "failed.json", {"error": "before"})
    assert run(tasks, machine)
    left = {path.name for path in (machine.run_dir / task.id).iterdir()}
    assert left == {"done.json"}
