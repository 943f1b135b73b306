"""The ranks of a Slurm step: who they are and where they meet."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from hpcscale.cluster.entry import expand_hosts, rank_environment


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10],login", ["node08", "node09", "node10", "login"]),
        ("n[1,3-4]x", ["n1x", "n3x", "n4x"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_host_lists_are_expanded(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts
    if shutil.which("scontrol") and os.environ.get("SLURM_CONF"):
        answer = subprocess.run(
            ["scontrol", "show", "hostnames", text], capture_output=True, text=True, check=False
        )
        assert not answer.stdout or answer.stdout.split() == hosts


STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "9",
    "SLURM_STEP_NODELIST": "b[2-3]",
    "SLURM_JOB_NODELIST": "a1,b[2-3]",
    "SLURM_CPUS_PER_TASK": "6",
}


def test_a_steps_variables_become_a_ranks() -> None:
    assert rank_environment(STEP) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "b2",
        "MASTER_PORT": str(61000 + 4711 % 4536),
        "OMP_NUM_THREADS": "6",
    }


def test_outside_a_step_and_under_another_launcher_nothing_is_set() -> None:
    assert rank_environment({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}) == {}
    assert rank_environment({**STEP, "RANK": "0"}) == {}
