"""What of a sweep is to be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.atomic import write_done
from hpcscale.opened import Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.kinds import SELECT, TRAIN
from hpcscale.rundir.state import Job, State, write_job
from planning import of_kind, open_plan

SLURM = "name: there\ncpus_per_node: 8\n"


def finish(sweep: Sweep, *tasks: AnyTask) -> None:
    for task in tasks:
        (sweep.run_dir / task.id).mkdir(parents=True, exist_ok=True)
        write_done(sweep.run_dir / task.id, task.key, [])


def names(tasks: list[AnyTask]) -> list[str]:
    return [task.name for task in tasks]


def test_everything_is_to_be_done_at_first_and_nothing_in_the_end(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    plan = sweep.plan()
    assert plan.start == plan.needed == sweep.tasks.every()
    finish(sweep, *sweep.tasks.every())
    plan = sweep.plan()
    assert (plan.start, plan.needed) == ([], [])
    assert plan.done == {task.id for task in sweep.tasks.every()}


def test_a_lost_cell_is_made_again_and_analysed(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path, "budgets=[6M, 12M]")
    finish(sweep, *sweep.tasks.every())
    (sweep.run_dir / sweep.tasks.cells[0].id / "done.json").unlink()
    assert names(sweep.plan().start) == ["evaluations/random-6M-s0", "analysis"]


def test_an_analysis_that_is_lost_is_made_alone(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    finish(sweep, *sweep.tasks.graph)
    assert names(sweep.plan().start) == ["analysis"]


def alive(sweep: Sweep, patch: pytest.MonkeyPatch, *tasks: AnyTask) -> None:
    """Jobs of a queue that says they are there."""
    for number, task in enumerate(tasks):
        write_job(sweep.run_dir / task.id, Job("slurm", str(number)), 0.0)
    patch.setattr(sweep.backend, "alive", lambda jobs: dict.fromkeys(jobs, "queued"))


def test_what_lives_is_needed_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_plan(tmp_path, executor="slurm", site=SLURM)
    (cell,) = of_kind(sweep.tasks.graph, TRAIN).values()
    alive(sweep, monkeypatch, cell)
    plan = sweep.plan()
    assert plan.alive
    assert cell in plan.needed
    assert cell not in plan.start
    submission = sweep.submission(plan)
    assert submission.jobs == {cell.id: Job("slurm", "0")}
    assert cell not in submission.tasks


def test_an_analysis_that_waits_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_plan(tmp_path, executor="slurm", site=SLURM)
    finish(sweep, *(task for task in sweep.tasks.graph if task not in sweep.tasks.cells))
    alive(sweep, monkeypatch, *sweep.tasks.cells, sweep.tasks.analysis)
    plan = sweep.plan()
    assert plan.states["analysis"].state is State.QUEUED
    assert plan.start == []


def test_cores_are_shared_by_cells_and_not_by_their_evaluations(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path, "seeds=[0, 1]", "resources.train.cpus=auto")
    assert sweep._tasks_of_stage["train"] == 2
    assert sweep._tasks_of_stage["select"] == len(of_kind(sweep.tasks.graph, SELECT))
    trunk = ("train.schedule=wsd-branch", "train.warmup=1M")
    branched = open_plan(tmp_path, "seeds=[0, 1]", "budgets=[6M, 12M]", *trunk)
    assert branched._tasks_of_stage["train"] == 4
