"""What goes to Slurm and into containers, as text; and what Slurm's answers mean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcscale.cluster.container import container_wrap
from hpcscale.cluster.entry import expand_hosts, rank_environment
from hpcscale.cluster.executor import SlurmExecutor
from hpcscale.cluster.liveness import alive, check_partition, slurm_available
from hpcscale.cluster.nodes import node_failures
from hpcscale.cluster.profile_shell import profile_shell
from hpcscale.cluster.restart import requeue_lines, signal_lead
from hpcscale.config.profile import ContainerConfig, SiteProfile, load_profile
from hpcscale.config.resources import Resources
from hpcscale.errors import ClusterError, ConfigError

GOLDEN = Path(__file__).parents[2] / "golden"
KINDS = ["none", "apptainer", "pyxis", "podman", "charliecloud"]


def container(kind: str) -> ContainerConfig:
    if kind == "none":
        return ContainerConfig()
    return ContainerConfig(
        kind=kind,
        image="/images/hpcscale.img",
        binds=("/scratch", "/data:/mnt"),
        gpu=True,
        workdir="/scratch",
        extra_args=("--extra",),
    )  # type: ignore[arg-type]


def profile(kind: str) -> SiteProfile:
    return SiteProfile(
        name="test",
        partition="gpu",
        account="ours",
        qos="high",
        constraint="a100",
        gpus_per_node=4,
        signal_seconds=90,
        modules=("cuda/12",),
        environment={"X": "a b"},
        setup=("ulimit -n 4096",),
        srun_args=("--mpi=none",),
        extra_sbatch={"exclusive": True},
        container=container(kind),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_of_each_container_kind_is_the_golden_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written anew with HPCSCALE_GOLDEN=write, then read in review."""
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    script = SlurmExecutor(profile(kind), Path("/runs/x/logs")).render(
        stage="train",
        name="x-train",
        resources=Resources(
            nodes=2, gpus=4, cpus=8, ranks=4, memory="64GiB", time="4h", array_parallelism=3
        ),
        payloads=[["cells/a"], ["cells/b"]] * 3,
        run_dir=Path("/runs/x"),
        dependencies=["7", "9"],
    )  # type: ignore[arg-type]
    golden = GOLDEN / f"train-{kind}.sbatch"
    if os.environ.get("HPCSCALE_GOLDEN") == "write":
        golden.write_text(script)
    assert script == golden.read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_cpu_ranks_ask_for_no_gpu_and_one_element_is_no_array() -> None:
    script = SlurmExecutor(SiteProfile(name="s"), Path("/l")).render(
        stage="data",
        name="d",
        resources=Resources(gpus=0, cpus=2, ranks=3),
        payloads=[["a"]],
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert "gpu" not in script
    assert "--array" not in script
    assert "--dependency" not in script
    assert "--ntasks-per-node=3" in script
    assert "--requeue" in script
    assert "--open-mode=append" in script


def test_a_thousand_elements_render_in_a_moment() -> None:
    import time

    payloads = [[f"cells/{i}", f"evaluations/{i}"] for i in range(1000)]
    started = time.perf_counter()
    SlurmExecutor(SiteProfile(name="s"), Path("/l")).render(
        stage="train",
        name="t",
        resources=Resources(gpus=0, cpus=1),
        payloads=payloads,
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert time.perf_counter() - started < 1


def test_binds_with_one_path_are_mounted_in_place() -> None:
    flags, command = container_wrap(container("pyxis"), ["python"])
    assert "--container-mounts=/scratch:/scratch,/data:/mnt" in flags
    assert command == ["python"]
    assert "--volume=/scratch:/scratch" in container_wrap(container("podman"), ["python"])[1]


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


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Commands of Slurm that print what a test says."""

    def make(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return make


def test_jobs_are_running_queued_gone_or_unknown(fake) -> None:  # type: ignore[no-untyped-def]
    fake(
        "squeue", "printf '5_0 RUNNING\\n5_1 PENDING\\n6 COMPLETING\\n7 REQUEUE_HOLD\\n8 FAILED\\n'"
    )
    assert alive(["5_0", "5_1", "5_2", "6", "7", "8"]) == {
        "5_0": "running",
        "5_1": "queued",
        "5_2": "gone",
        "6": "running",
        "7": "queued",
        "8": "gone",
    }
    fake("squeue", 'case "$*" in *--all*) echo 5_0 RUNNING;; esac')
    assert alive(["5_0"]) == {"5_0": "running"}, "in a hidden partition"
    fake("squeue", "exit 1")
    assert alive(["5_0"]) == {"5_0": "unknown"}


def test_partitions_are_those_of_the_cluster(fake) -> None:  # type: ignore[no-untyped-def]
    fake("sinfo", "printf 'main\\nlow\\n'")
    fake("sbatch", "true")
    check_partition("main")
    check_partition("main,low")
    with pytest.raises(ClusterError, match="no partition `gpu`; this cluster has: low, main"):
        check_partition("gpu")
    assert slurm_available()
    fake("sinfo", "exit 1")
    assert not slurm_available()


ELEMENT = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "5"}


@pytest.mark.parametrize(
    ("code", "state", "environment", "asked"),
    [
        (75, "RUNNING", ELEMENT, "5_3"),
        (137, "RUNNING", {"SLURM_JOB_ID": "9"}, "9"),
        (140, "RUNNING", ELEMENT, "5_3"),
        (75, "COMPLETING", ELEMENT, None),
        (137, "RUNNING", {**ELEMENT, "SLURM_RESTART_COUNT": "3"}, None),
        (1, "RUNNING", ELEMENT, None),
        (0, "RUNNING", ELEMENT, None),
    ],
)
def test_what_was_stopped_or_killed_goes_back_into_the_queue(
    fake, tmp_path, code: int, state: str, environment: dict[str, str], asked: str | None
) -> None:  # type: ignore[no-untyped-def]
    """A job that somebody cancelled is completing, and must not come back."""
    fake("srun", f"exit {code}")
    fake("squeue", f"echo {state}")
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 2)])
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": os.environ["PATH"], **environment}, check=False
    )
    assert done.returncode == code
    log = tmp_path / "asked"
    assert (log.read_text().strip() if log.exists() else None) == (asked and f"requeue {asked}")


def test_a_failure_is_not_taken_for_the_signal_that_ended_the_other_ranks(
    fake, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """Nor for one of an earlier start."""
    fake(
        "srun", f"{sys.executable} -c 'from hpcscale.cluster.restart import fail; fail()'; exit 143"
    )
    fake("squeue", "echo RUNNING")
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 9)])
    environment = {"PATH": os.environ["PATH"], **ELEMENT, "SUBMITIT_FOLDER": str(tmp_path)}
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == 1
    assert not (tmp_path / "asked").exists()
    fake("srun", "exit 143")
    again = environment | {"SLURM_RESTART_COUNT": "1"}
    subprocess.run(["bash", "-c", script], env=again, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_requeueing_waits_for_a_controller_that_is_away(fake, tmp_path) -> None:  # type: ignore[no-untyped-def]
    fake("srun", "exit 75")
    fake("sleep", f"touch {tmp_path}/waited")
    fake("squeue", f"test -e {tmp_path}/waited && echo RUNNING")
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 2)])
    subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"], **ELEMENT}, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_requeueing_sees_its_job_whatever_squeue_is_told(fake, tmp_path) -> None:  # type: ignore[no-untyped-def]
    fake("srun", "exit 75")
    fake("squeue", '[ "$1" = --all ] && [ -z "$SQUEUE_STATES$SLURM_CLUSTERS" ] && echo RUNNING')
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    fake("sleep", "exit 1")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 2)])
    told = {"SQUEUE_STATES": "PENDING", "SLURM_CLUSTERS": "elsewhere"}
    environment = {"PATH": os.environ["PATH"], **ELEMENT, **told}
    subprocess.run(["bash", "-c", script], env=environment, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_jobs_are_not_sent_where_they_would_not_be_looked_for() -> None:
    site = SiteProfile(name="s", extra_sbatch={"clusters": "b"})
    with pytest.raises(ConfigError, match=r"`s` has clusters under extra_sbatch.*SLURM_CONF"):
        SlurmExecutor(site, Path("/l"))


def test_a_node_counts_that_went_down_under_a_job(fake) -> None:  # type: ignore[no-untyped-def]
    """Two jobs of two nodes each lose the node that they share; a third fails by itself."""
    rows = [
        "NODE_FAIL|n[1-2]|2026-01-01T10:00:00|2026-01-01T11:00:00",
        "COMPLETED|n[1-2]|2026-01-01T12:00:00|2026-01-01T13:00:00",
        "NODE_FAIL|n[2-3]|2026-01-01T14:00:00|2026-01-01T15:00:00",
        "FAILED|n3|2026-01-01T16:00:00|2026-01-01T17:00:00",
    ]
    events = [
        "|2026-01-01T10:30:00|",
        "n2|2026-01-01T11:00:00|DOWN*",
        "n1|2026-01-01T12:30:00|DOWN*",
        "n3|2026-01-01T14:30:00|DRAIN",
        "n2|2026-01-01T15:00:09|DOWN*",
        "n3|2026-01-01T16:30:00|DOWN*",
    ]
    fake("sacct", "printf '%s\\n' " + " ".join(f"'{row}'" for row in rows))
    fake("sacctmgr", "printf '%s\\n' " + " ".join(f"'{row}'" for row in events))
    assert node_failures(["1", "2", "3"]) == {"n2": 2}
    fake("sacct", "exit 1")
    assert node_failures(["1", "2", "3"]) == {}


def test_nodes_are_excluded_beside_the_sites_own() -> None:
    site = SiteProfile(name="s", extra_sbatch={"exclude": "n9"})
    script = SlurmExecutor(site, Path("/l"), exclude=["n1", "n2"]).render(
        stage="train",
        name="t",
        resources=Resources(gpus=0, cpus=1),
        payloads=[["a"]],
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert "#SBATCH --exclude=n9,n1,n2\n" in script


def test_a_short_job_is_not_told_to_stop_as_soon_as_it_starts() -> None:
    site = SiteProfile(name="s", signal_seconds=90)
    assert signal_lead(site, Resources(time="4h")) == 90  # type: ignore[arg-type]
    assert signal_lead(site, Resources(time="2m")) == 30  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_shell_form_of_a_profile_is_bash(kind: str) -> None:
    script = (
        "module() { :; }\n"
        + profile_shell(profile(kind))
        + '\nprintf "%s|" "$X" "${HPCSCALE_SRUN_ARGS[@]}" "${HPCSCALE_COMMAND[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = done.stdout.split("|")
    assert words[:2] == ["a b", "--mpi=none"]
    assert ("hpcscale" if kind == "none" else "hpcscale.cli.main") in words


@pytest.mark.parametrize("name", ["generic", "devcluster", "example-apptainer", "example-pyxis"])
def test_the_shipped_profiles_are_valid(name: str) -> None:
    assert load_profile(name).name == name
