"""What every queue shares: order, dependencies, and what is on record when one array is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcscale.backends.base import Queue, Submission, worker_command
from hpcscale.backends.display import Display
from hpcscale.config.profile import SiteProfile
from hpcscale.errors import ClusterError
from hpcscale.plan.array_tasks import Array
from hpcscale.plan.kinds import TRAIN
from hpcscale.plan.resources import Machine
from hpcscale.rundir.state import Job, read_job
from planning import QUICKSTART, of_kind, plan_of, submission_of

SMALL = ("budgets=[64k, 128k]", "seeds=[0]", "selection=[random]")


class Tickets(Queue):
    """A queue that numbers its arrays, and refuses those of one stage."""

    name = "tickets"

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.submitted: list[tuple[Array, list[str]]] = []

    def machine(self, profile: SiteProfile) -> Machine:
        return Machine(0, 1, side_by_side=False)

    def submit(self, submission: Submission, array: Array, after: Sequence[str]) -> list[str]:
        if array.stage == self.refused:
            raise ClusterError("no room")
        self.submitted.append((array, list(after)))
        return [f"{len(self.submitted)}_{i}" for i in range(len(array.array_tasks))]

    def array_of(self, job: str) -> str:
        return job.partition("_")[0]


def start(queue: Tickets, submission: Submission) -> list[str]:
    """What was said."""
    said: list[str] = []
    display = Display(submission.run_dir, submission.tasks, set())
    assert queue.start(submission, display, said.append)
    return said


def job_of(run_dir: Path, name: str) -> str:
    job = read_job(run_dir / name)
    assert job is not None
    assert job.executor == "tickets"
    return job.id


def test_each_array_waits_for_the_jobs_of_what_it_reads(tmp_path: Path) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    queue = Tickets()
    start(queue, submission_of(tmp_path, tasks))
    jobs = {task.id: job_of(tmp_path, task.id) for task in tasks.every()}
    for array, after in queue.submitted:
        behind = {jobs[name] for name in array.waits_for()}
        assert after == sorted(behind)
    stages = [array.stage for array, _ in queue.submitted]
    assert (stages[0], stages[-1]) == ("tokenizer", "analyse")
    # A cell and its evaluation run behind each other in one job.
    for cell in tasks.cells:
        assert jobs[cell.id] == jobs[cell.inputs["model"][0].id]
    assert len({jobs[task.id] for task in of_kind(tasks.graph, TRAIN).values()}) == 2


def test_the_analysis_waits_for_all_that_is_submitted(tmp_path: Path) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    queue = Tickets()
    start(queue, submission_of(tmp_path, tasks))
    (_, after) = queue.submitted[-1]
    assert set(after) == {job_of(tmp_path, task.id) for task in tasks.graph}


def test_what_is_done_is_not_waited_for_and_what_lives_is(tmp_path: Path) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    done = [task for task in tasks.graph if task.stage in ("tokenizer", "data", "base")]
    alive = [task for task in tasks.graph if task.stage == "select"]
    jobs = {task.id: Job("tickets", "77_0") for task in alive}
    left = [task for task in tasks.every() if task not in (*done, *alive)]
    queue = Tickets()
    start(queue, submission_of(tmp_path, tasks, left, done, jobs))
    (cells, after), (analysis, behind) = queue.submitted
    assert (cells.stage, after) == ("train", ["77_0"])
    assert (analysis.stage, behind) == ("analyse", ["1_0", "1_1", "77_0"])


def test_a_refusal_leaves_what_was_submitted_on_record(tmp_path: Path) -> None:
    tasks = plan_of(QUICKSTART, *SMALL)
    queue = Tickets(refused="train")
    with pytest.raises(ClusterError, match="no room"):
        start(queue, submission_of(tmp_path, tasks))
    recorded = {task.stage for task in tasks.every() if read_job(tmp_path / task.id)}
    assert recorded == {array.stage for array, _ in queue.submitted}
    assert {"tokenizer", "data", "base", "select"} <= recorded
    assert not {"train", "analyse"} & recorded


def test_each_array_is_said_by_its_size_and_name(tmp_path: Path) -> None:
    said = start(Tickets(), submission_of(tmp_path, plan_of(QUICKSTART, *SMALL)))
    assert said[0] == "submitted tokenizer: job 1"
    (cells,) = (line for line in said if line.startswith("submitted train: "))
    assert cells.startswith("submitted train: 2 array tasks as job array ")


def test_a_command_runs_tasks_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = worker_command(Path("runs/a"), ["cells/a-1", "evaluations/a-2"])
    task = ["task", f"{tmp_path}/runs/a", "cells/a-1", "evaluations/a-2"]
    assert words[1:] == ["-m", "hpcscale.cli.main", *task]
