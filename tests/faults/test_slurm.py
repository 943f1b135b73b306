"""Faults on a real Slurm: the cell comes back by itself and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.devcluster import Cluster
from faults.conftest import Battery, Start
from faults.harness import (
    EVERY,
    WRITING,
    Disturbed,
    Ending,
    break_newest_checkpoint,
    eventually,
    saving,
    small_disk,
)

pytestmark = [pytest.mark.slurm, pytest.mark.faults, pytest.mark.slow]
AT = 50


def outcomes(cell: Disturbed) -> list[str]:
    return [line["outcome"] for line in cell.attempts()]


def node_state(cluster: Cluster, node: str) -> str:
    return cluster.run("sinfo", "-h", "-n", node, "-p", "main", "-o", "%t").stdout.strip()


def lose_node(cluster: Cluster) -> None:
    """It is started again once Slurm has seen it down."""
    cluster.tool("node", "kill", "node1")
    eventually(lambda: node_state(cluster, "node1").startswith("down"), 90, 0.5)
    cluster.tool("node", "start", "node1")


def test_nothing(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_slurm()
    cell.finish()
    assert outcomes(cell) == ["done"]
    battery.note("none", "Slurm", cell, undisturbed, 0.0, 0)


def test_preemption(
    start_slurm: Start, battery: Battery, undisturbed: Ending, devcluster: Cluster, tmp_path: Path
) -> None:
    cell = start_slurm("--site", str(tmp_path / "low.yaml"))
    cell.reach(AT)

    def more_important() -> None:
        words = ("--partition=main", "--nodelist=node1", "--exclusive", "--output=/dev/null")
        devcluster.run("sbatch", *words, "--wrap", "sleep 2")

    back = cell.seconds_to_be_back(more_important)
    cell.finish()
    assert outcomes(cell) == ["preempted", "done"]
    battery.note("preempted by a higher partition", "Slurm", cell, undisturbed, back, 0)


def test_time_limit(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    """The ranks stand still until Slurm's signal, so that no machine is too fast for it."""
    cell = start_slurm("--set", "resources.train.time=2m")
    cell.reach(AT)

    def fault() -> None:
        cell.signal_ranks(signal.SIGSTOP)
        # Slurm sends SIGCONT with it.
        eventually(cell.attempts, 150)

    back = cell.seconds_to_be_back(fault)
    cell.finish()
    assert set(outcomes(cell)[:-1]) == {"preempted"}
    battery.note("time limit", "Slurm", cell, undisturbed, back, 0)


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_signal(name: str, start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_slurm()
    cell.reach(AT)
    words = ["scancel", f"--signal={name}", cell.job]
    back = cell.seconds_to_be_back(lambda: subprocess.run(words, check=True) and None)
    cell.finish()
    assert outcomes(cell) == ["preempted", "done"]
    battery.note(f"`scancel --signal={name}`", "Slurm", cell, undisturbed, back, 0)


def test_requeue_by_hand(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_slurm()
    cell.reach(AT)
    words = ["scontrol", "requeue", cell.job]
    back = cell.seconds_to_be_back(lambda: subprocess.run(words, check=True) and None)
    cell.finish()
    battery.note("`scontrol requeue`", "Slurm", cell, undisturbed, back, EVERY)


@pytest.mark.parametrize("count", [1, None])
def test_killed_ranks(
    count: int | None, start_slurm: Start, battery: Battery, undisturbed: Ending
) -> None:
    cell = start_slurm()
    cell.reach(AT)
    back = cell.seconds_to_be_back(lambda: cell.kill_ranks(count))
    cell.finish()
    fault = "`kill -9` of one rank" if count else "`kill -9` of all ranks"
    battery.note(fault, "Slurm", cell, undisturbed, back, EVERY)


def test_killed_node(
    start_slurm: Start, battery: Battery, undisturbed: Ending, devcluster: Cluster
) -> None:
    cell = start_slurm()
    cell.reach(AT)

    back = cell.seconds_to_be_back(lambda: lose_node(devcluster))
    cell.finish()
    assert outcomes(cell) == ["killed", "done"]
    battery.note("`kill -9` of a slurmd and its steps", "Slurm", cell, undisturbed, back, EVERY)


def test_signal_during_a_save(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_slurm()
    cell.reach(2 * EVERY - 5)
    ranks = cell.ranks()

    def fault() -> None:
        eventually(lambda: saving(cell.cell), 60, 0.0005)
        for pid in ranks:
            os.kill(pid, signal.SIGTERM)

    back = cell.seconds_to_be_back(fault)
    cell.finish()
    assert outcomes(cell) == ["preempted", "done"]
    battery.note("SIGTERM during a save", "Slurm", cell, undisturbed, back, 0)


def test_kill_during_a_save(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    cell = start_slurm()
    cell.reach(2 * EVERY - 5)
    ranks = cell.ranks()

    def fault() -> None:
        eventually(lambda: saving(cell.cell), 60, 0.0005)
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)

    back = cell.seconds_to_be_back(fault)
    cell.finish()
    battery.note("`kill -9` during a save", "Slurm", cell, undisturbed, back, EVERY + WRITING)


@pytest.mark.parametrize("damage", ["truncated", "bit-flipped"])
def test_broken_checkpoint(
    damage: str, start_slurm: Start, battery: Battery, undisturbed: Ending
) -> None:
    cell = start_slurm()
    cell.reach(AT)

    def fault() -> None:
        cell.kill_ranks()
        eventually(lambda: not cell.ranks(), 30)
        break_newest_checkpoint(cell.cell, damage)

    back = cell.seconds_to_be_back(fault)
    cell.finish()
    battery.note(f"newest checkpoint {damage}", "Slurm", cell, undisturbed, back, 2 * EVERY)


def test_controller_restart(
    start_slurm: Start, battery: Battery, undisturbed: Ending, devcluster: Cluster
) -> None:
    cell = start_slurm()
    cell.reach(AT)
    began = time.monotonic()
    devcluster.tool("controller", "restart")
    back = time.monotonic() - began
    cell.finish()
    assert outcomes(cell) == ["done"]
    battery.note("controller restarted", "Slurm", cell, undisturbed, back, 0)


def test_preempted_while_the_controller_is_away(
    start_slurm: Start, battery: Battery, undisturbed: Ending, devcluster: Cluster
) -> None:
    cell = start_slurm()
    cell.reach(AT)

    def fault() -> None:
        devcluster.tool("controller", "kill")
        cell.signal_ranks(signal.SIGUSR2)
        eventually(lambda: cell.attempts(), 60)
        devcluster.tool("controller", "start")

    back = cell.seconds_to_be_back(fault)
    cell.finish()
    assert outcomes(cell) == ["preempted", "done"]
    battery.note("USR2 while the controller is dead", "Slurm", cell, undisturbed, back, 0)


def test_a_full_disk(start_slurm: Start, battery: Battery, undisturbed: Ending) -> None:
    """The state says what is wrong; once there is room, the same command goes on."""
    cell = start_slurm()
    eventually(lambda: list(cell.run.glob("cells/random-*")), 60)
    with small_disk(cell.cell / "checkpoints", 2, "node1") as room:
        cell.finish(code=1)
        assert "No space left" in cell.status(), cell.status()
        room()
        began = time.monotonic()
        cell.start()
        cell.finish()
    battery.note(
        "disk full during a save",
        "Slurm",
        cell,
        undisturbed,
        time.monotonic() - began,
        EVERY + WRITING,
    )


def test_a_cancelled_job_stays_cancelled(
    start_slurm: Start, undisturbed: Ending, devcluster: Cluster
) -> None:
    cell = start_slurm()
    cell.reach(AT)
    job = cell.job
    devcluster.run("scancel", job)
    cell.finish(code=1)
    time.sleep(8)
    assert devcluster.run("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").stdout.split() in (
        [],
        ["CANCELLED"],
    )
    cell.start()
    cell.finish()
    assert Ending.of(cell.run) == undisturbed


def test_attempts_without_gain_end(start_slurm: Start, undisturbed: Ending) -> None:
    cell = start_slurm("--set", "train.checkpoint.every_steps=1000")
    for _ in range(2):
        before = cell.running() if list(cell.run.glob("cells/random-*")) else None
        eventually(lambda b=before: (now := cell.running()) and now != b and cell.steps() > 2)  # type: ignore[misc]
        cell.kill_ranks()
    output = cell.finish(code=1)
    assert "the last 2 attempts began at step 0" in output
    cell.start()
    cell.finish()
    assert Ending.of(cell.run) == undisturbed


def lose(cell: Disturbed) -> None:
    """Make the training be wanted again; a lost model is not, while its evaluation is there."""
    next((cell.cell / "model").iterdir()).unlink()
    shutil.rmtree(cell.run / "evaluations")


def test_a_node_that_failed_twice_is_left_out(
    start_slurm: Start, undisturbed: Ending, devcluster: Cluster
) -> None:
    cell = start_slurm()
    for step in (AT, 2 * AT):
        cell.reach(step)
        cell.seconds_to_be_back(lambda: lose_node(devcluster))
    cell.finish()
    assert Ending.of(cell.run) == undisturbed
    lose(cell)
    plan = cell.plan()
    assert "excluded: node1, which went down two times or more under this sweep" in plan
    assert "#SBATCH --exclude=node1" in plan


def test_a_lead_time_that_is_too_short_is_told(start_slurm: Start) -> None:
    cell = start_slurm()
    cell.finish()
    (line,) = cell.attempts()
    assert 0 < line["lead_seconds"] < 15
    line["lead_seconds"] = 47.0
    (cell.cell / "attempts.jsonl").write_text(json.dumps(line) + "\n")
    lose(cell)
    assert (
        "train takes up to 47 s to stop (its longest step and save), but jobs are signalled 15 s "
        "before the end; write signal_seconds: 80 into the site profile\n"
    ) in cell.plan()
