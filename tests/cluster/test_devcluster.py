"""slurm/devcluster is a real Slurm: nodes, arrays, accounting, GPUs; it leaves nothing behind."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.devcluster import NODES, Cluster, free_port, leftovers, why_not

pytestmark = pytest.mark.slurm


def eventually(question: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def submit(cluster: Cluster, log: Path, command: str, *options: str) -> str:
    words = ["sbatch", "--parsable", "--output", str(log), *options, "--wrap", command]
    return cluster.run(*words).stdout.strip()


def states(cluster: Cluster, job: str) -> dict[str, str]:
    """State by job id, array tasks apart, as the data base knows them."""
    rows = cluster.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State").stdout.split()
    return dict(row.split("|") for row in rows)


@pytest.fixture
def flat(tmp_path: Path) -> Cluster:
    """A second cluster, beside the session's: not started, and down again after the test."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return Cluster(Path(f"/tmp/hpcscale-flat-{os.getpid()}"), free_port(), "flat")


def test_three_nodes_are_idle_and_up_twice_is_harmless(devcluster: Cluster) -> None:
    def idle() -> bool:
        lines = devcluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %G").stdout
        return lines.splitlines() == [f"{node} idle gpu:4" for node in NODES]

    assert eventually(idle)
    assert "already up" in devcluster.tool("up").stdout
    assert idle()
    assert devcluster.tool("env").stdout == f"export SLURM_CONF={devcluster.base}/etc/slurm.conf\n"


def test_an_array_of_two_nodes_with_two_tasks_each(devcluster: Cluster, tmp_path: Path) -> None:
    report = (
        "srun bash -c 'echo \"$SLURM_ARRAY_TASK_ID $SLURMD_NODENAME $(hostname) $SLURM_PROCID\"'"
    )
    job = submit(
        devcluster,
        tmp_path / "%a.log",
        report,
        *("--wait", "--array=0-1", "--nodes=2", "--ntasks-per-node=2", "--nodelist=node1,node2"),
    )
    for task in ("0", "1"):
        lines = [line.split() for line in (tmp_path / f"{task}.log").read_text().splitlines()]
        ranks = {int(rank): (node, host) for _, node, host, rank in lines}
        assert [ranks[rank][0] for rank in range(4)] == ["node1", "node1", "node2", "node2"]
        assert {line[0] for line in lines} == {task}
        if devcluster.mode == "netns":
            assert all(node == host for node, host in ranks.values())
    done = {f"{job}_0": "COMPLETED", f"{job}_1": "COMPLETED"}
    assert eventually(lambda: states(devcluster, job) == done), states(devcluster, job)


def test_gpus_are_given_out_once(devcluster: Cluster, tmp_path: Path) -> None:
    jobs = []
    for name in ("a", "b", "c"):
        command = "echo $CUDA_VISIBLE_DEVICES; sleep 3"
        options = ("--nodelist=node3", "--gres=gpu:2")
        jobs.append(submit(devcluster, tmp_path / name, command, *options))

    def running() -> list[str]:
        return devcluster.run("squeue", "-h", "-j", ",".join(jobs), "-o", "%i %T").stdout.split(
            "\n"
        )

    assert eventually(lambda: sum("RUNNING" in line for line in running()) == 2)
    assert sum("PENDING" in line for line in running()) == 1
    assert eventually(lambda: all(states(devcluster, job).get(job) == "COMPLETED" for job in jobs))
    devices = sorted((tmp_path / name).read_text().strip() for name in ("a", "b"))
    assert devices == ["0,1", "2,3"]
    refused = devcluster.run("sbatch", "--gres=gpu:5", "--wrap", "true", check=False)
    assert refused.returncode != 0
    assert "Requested node configuration is not available" in refused.stderr


def test_a_killed_node_goes_and_comes_back(devcluster: Cluster) -> None:
    devcluster.tool("node", "kill", "node2")
    assert devcluster.tool("status", check=False).returncode == 3
    devcluster.tool("node", "start", "node2")
    assert eventually(lambda: devcluster.tool("status", check=False).returncode == 0)
    words = ("srun", "--nodelist=node2", "--time=1", "bash", "-c", "echo $SLURMD_NODENAME")
    assert devcluster.run(*words).stdout == "node2\n"
    assert "no node 'node9'" in devcluster.tool("node", "kill", "node9", check=False).stderr


def test_the_controller_restarts_under_a_running_job(devcluster: Cluster, tmp_path: Path) -> None:
    job = submit(devcluster, tmp_path / "log", "sleep 4; echo through")
    assert eventually(lambda: states(devcluster, job).get(job) == "RUNNING")
    devcluster.tool("controller", "restart")
    assert eventually(lambda: states(devcluster, job).get(job) == "COMPLETED", 30)
    assert (tmp_path / "log").read_text() == "through\n"


def test_down_leaves_nothing_even_under_a_running_job(flat: Cluster, tmp_path: Path) -> None:
    hosts = Path("/etc/hosts").read_text()
    flat.tool("up")
    assert flat.mode == "flat"
    command = "setsid sleep 600 & srun sleep 600"
    job = submit(flat, tmp_path / "log", command, "--nodes=2", "--ntasks-per-node=2")
    assert eventually(lambda: states(flat, job).get(job) == "RUNNING")
    assert eventually(lambda: sum("sleep" in line for line in leftovers(flat)) >= 5)
    flat.tool("down")
    assert leftovers(flat) == []
    assert Path("/etc/hosts").read_text() == hosts
    assert "nothing to stop" in flat.tool("down").stdout
    assert "no cluster in" in flat.tool("env", check=False).stderr


def test_up_says_which_daemon_failed_and_stops_the_others(flat: Cluster) -> None:
    with socket.socket() as squatter:
        # Bound but not listening: nobody answers there, and slurmdbd cannot have the port.
        squatter.bind(("0.0.0.0", flat.port + 2))
        failed = flat.tool("up", check=False)
    assert failed.returncode == 1
    assert "devcluster: slurmdbd:" in failed.stderr
    assert f"--- end of {flat.base}/log/slurmdbd.log" in failed.stderr
    assert leftovers(flat) == [str(flat.base)], "only the logs stay"
    flat.tool("down")
    assert leftovers(flat) == []


def test_a_taken_port_is_named(flat: Cluster) -> None:
    with socket.create_server(("127.0.0.1", flat.port)):
        failed = flat.tool("up", check=False)
    assert failed.returncode == 1
    assert f"port {flat.port} is taken" in failed.stderr
    assert "DEVCLUSTER_PORT" in failed.stderr
    assert leftovers(flat) == []


def test_a_folder_of_somebody_elses_is_not_touched(flat: Cluster, tmp_path: Path) -> None:
    theirs = Path(f"/tmp/hpcscale-theirs-{os.getpid()}")
    theirs.mkdir()
    try:
        (theirs / "file").write_text("mine")
        other = Cluster(theirs, flat.port, "flat")
        assert "no dev cluster's" in other.tool("up", check=False).stderr
        other.tool("down")
        assert (theirs / "file").read_text() == "mine"
    finally:
        (theirs / "file").unlink()
        theirs.rmdir()
