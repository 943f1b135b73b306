"""Plans and outcomes in words."""

from __future__ import annotations

from pathlib import Path

from hpcscale.atomic import write_done, write_json
from hpcscale.opened import Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.preview.text import dry_run_text, outcome_text, plan_text, state_lines
from planning import open_plan

SLURM = "name: there\ncpus_per_node: 8\ngpus_per_node: 2\ngpu_type: A100\n"


def finish(sweep: Sweep, *tasks: AnyTask) -> None:
    for task in tasks:
        folder = sweep.run_dir / task.id
        (folder / "store").mkdir(parents=True, exist_ok=True)
        write_json(folder / "store" / "manifest.json", {"eot_id": 0})
        counts = {"tokens": 1_000, "documents": 10}
        write_done(folder, task.key, ["store/manifest.json"], facts={"counts": counts})


def fail(sweep: Sweep, task: AnyTask, error: str) -> None:
    (sweep.run_dir / task.id).mkdir(parents=True, exist_ok=True)
    write_json(sweep.run_dir / task.id / "failed.json", {"error": error})


def test_a_plan_says_what_starts_and_what_it_costs(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path, "budgets=[6M, 12M]", "seeds=[0, 1]")
    lines = plan_text(sweep, sweep.plan()).splitlines()
    assert (
        lines[0]
        == "sweep plan: 4 cells = 1 methods (random) x 2 budgets (6M, 12M tokens) x 2 seeds"
    )
    assert f"run directory {sweep.run_dir}, executor local" in lines[1]
    (start,) = (line for line in lines if line.startswith("to start: "))
    assert f"to start: {len(sweep.tasks.every())} tasks; 37M tokens to train" in start
    assert "GPU-hours unknown (the site profile names no gpu_type)" in start


def test_a_stage_is_a_line_of_counts(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    finish(sweep, *sweep.tasks.data())
    fail(sweep, sweep.tasks.cells[0].inputs["model"][0], "no memory")
    found = state_lines(sweep.observe())
    assert found == [
        "  tokenizer  1 done",
        "  data       3 done",
        "  base       2 missing",
        "  select     1 missing",
        "  train      1 failed, 1 missing",
        "  analyse    1 missing",
    ]


def test_a_sweep_that_is_done_starts_nothing(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    finish(sweep, *sweep.tasks.every())
    lines = plan_text(sweep, sweep.plan()).splitlines()
    assert lines[-1] == "nothing to start"
    assert "  train      2 done" in lines


def test_a_dry_run_shows_resources_and_scripts(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path, "resources.train.time=2h", executor="slurm", site=SLURM)
    text = dry_run_text(sweep, sweep.plan())
    assert (
        "  train      1 node(s) x 2 rank(s), 2 GPUs a node, 4 cores a rank, memory site default, "
        "time 2h" in text
    )
    assert "  tokenizer  1 node(s) x 1 rank(s), 0 GPUs a node, 8 cores a rank" in text
    assert text.count("#!/bin/bash") == len(sweep.submission(sweep.plan()).arrays)
    assert text.endswith("dry run: nothing was submitted")


def test_a_dry_run_here_has_no_scripts(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    assert "#!/bin/bash" not in dry_run_text(sweep, sweep.plan())


def test_an_outcome_names_failures_and_how_to_go_on(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path, "seeds=[0, 1, 2, 3, 4, 5, 6]")
    first, *others = sweep.tasks.cells
    finish(sweep, first)
    for cell in others:
        fail(sweep, cell.inputs["model"][0], f"{cell.name} has no memory")
    lines = outcome_text(sweep).splitlines()
    assert lines[0] == f"FAILED {others[0].inputs['model'][0].name}: {others[0].name} has no memory"
    assert lines[5:] == [
        "... and 1 more failed tasks",
        "1 of 7 cells done",
        "run the same command again to continue with what is missing",
    ]


def test_an_outcome_names_the_report(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    finish(sweep, *sweep.tasks.every())
    assert outcome_text(sweep).splitlines() == [
        "1 of 1 cells done",
        f"losses: {sweep.run_dir}/analysis/results.csv",
        f"report: {sweep.run_dir}/analysis/report.html",
        f"fits:   {sweep.run_dir}/analysis/fits.csv",
    ]


def test_what_is_submitted_is_told_where_to_look(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    assert f"hpcscale status {sweep.run_dir} --follow" in outcome_text(sweep, submitted=True)
