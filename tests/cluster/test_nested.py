"""A sweep that is started inside a job: its jobs are those that the profile describes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from hpcscale.cluster.liveness import alive
from support import command, texts, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_cluster")]
__all__ = ["texts"]  # a fixture

#: What a shell, an outer job and torchrun may have left; each would change a job, or hide one.
LEFT = {
    "SBATCH_PARTITION": "nonexistent",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_ARRAY_INX": "0-99",
    "SBATCH_ACCOUNT": "nobody",
    "SBATCH_WAIT": "1",
    "SBATCH_EXPORT": "NONE",
    "SLURM_CPUS_PER_TASK": "7",
    "SLURM_MEM_PER_NODE": "1",
    "SLURM_CPU_BIND": "mask_cpu:0x1",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_NTASKS": "5",
    "SLURM_CLUSTERS": "elsewhere",
    "SQUEUE_STATES": "PENDING",
    "SQUEUE_USERS": "nobody",
    "SQUEUE_FORMAT": "%j",
    "SINFO_PARTITION": "low",
    "SCONTROL_ALL": "1",
    "PMIX_RANK": "3",
    "OMPI_COMM_WORLD_RANK": "3",
    "RANK": "3",
    "WORLD_SIZE": "9",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
OUTER = tuple(
    (
        "salloc --quiet --partition=low --ntasks=2 --cpus-per-task=3 --gres=gpu:1 srun --ntasks=1 "
        "--cpus-per-task=3"
    ).split()
)
PROFILE = """\
name: nested
partition: main
max_array_size: 1000
setup: ['env > {folder}/env-$SLURM_JOB_ID']
"""


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def inside_a_job(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a step of a job, with all of LEFT exported."""
    exports = [f"{name}={value}" for name, value in LEFT.items()]
    shell = 'export TMPDIR=/tmp/of-job-$SLURM_JOB_ID; exec env "$@"'
    return subprocess.run(
        [*OUTER, "bash", "-c", shell, "bash", *exports, *words],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def nested(
    tmp_path_factory: pytest.TempPathFactory, texts: Path, slurm_cluster: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run directory, and the call that made it."""
    folder = tmp_path_factory.mktemp("nested")
    # Other tests count the jobs called tiny.
    write_sweep(folder, texts, name="nested")
    (folder / "site.yaml").write_text(PROFILE.format(folder=folder))
    done = inside_a_job(
        *command(
            "sweep",
            folder / "nested.yaml",
            "--executor",
            "slurm",
            "--follow",
            "--site",
            folder / "site.yaml",
            "--set",
            "selection=[random]",
            "--set",
            "resources.default.time=0-1",
            "--set",
            "resources.default.cpus=2",
            "--set",
            "resources.train.ranks=2",
            "--set",
            "train.micro_batch=4",
        )
    )
    logs = "".join(p.read_text()[-2000:] for p in folder.rglob("*_log.out"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return folder, done


def test_the_cells_are_done(nested: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = nested
    assert "3 of 3 cells done" in done.stdout
    records = [json.loads(p.read_text()) for p in folder.rglob("cells/*/record.json")]
    assert [record["world_size"] for record in records] == [2] * 3


def test_the_jobs_have_partition_time_array_and_cores_of_the_profile(
    nested: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = nested
    jobs = {json.loads(p.read_text())["id"] for p in folder.rglob("job.json")}
    train = sorted({json.loads(p.read_text())["id"] for p in folder.rglob("cells/*/job.json")})
    assert [job.partition("_")[2] for job in train] == ["0", "1", "2"]
    fields = "JobID,Partition,TimelimitRaw,NNodes,ReqCPUS,State"
    rows = ask("sacct", "-X", "-n", "-P", "-j", ",".join(jobs), "-o", fields).splitlines()
    found = {row.split("|")[0]: row.split("|")[1:] for row in rows}
    assert found.keys() == jobs
    for job, row in found.items():
        assert row == ["main", "60", "1", "4" if job in train else "2", "COMPLETED"]
    assert not ask("squeue", "--noheader", "--states=all", "--name=nested-train", "--partition=low")


def test_the_jobs_see_nothing_of_the_outer_one(
    nested: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = nested
    texts = [path.read_text() for path in folder.glob("env-*")]
    assert len(texts) >= 5
    for text in texts:
        seen = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        same = {n for n, value in LEFT.items() if seen.get(n) == value}
        assert same == set()
        assert seen["SLURM_CPUS_PER_TASK"] == "2"
        assert "SLURM_STEP_ID" not in seen
        assert "of-job-" not in seen.get("TMPDIR", "")


def test_a_local_sweep_inside_a_job_computes_the_same_with_ranks_of_its_own(
    nested: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = nested
    done = inside_a_job(
        *command(
            "sweep",
            folder / "nested.yaml",
            "--executor",
            "local",
            "--set",
            f"root={tmp_path}/runs",
            "--set",
            "selection=[random]",
            "--set",
            "budgets=[2k]",
            "--set",
            "resources.train.ranks=2",
            "--set",
            "train.micro_batch=4",
        )
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (here,) = tmp_path.rglob("evaluations/random-2k-s0-*/evaluation.json")
    (there,) = folder.rglob("evaluations/random-2k-s0-*/evaluation.json")
    loss = json.loads(there.read_text())["loss"]
    assert json.loads(here.read_text())["loss"] == pytest.approx(loss, rel=1e-5)
    (record,) = tmp_path.rglob("cells/*/record.json")
    assert json.loads(record.read_text())["world_size"] == 2


def test_what_does_not_count_is_said_once(
    nested: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = nested
    line = "SBATCH_ACCOUNT=nobody in your environment is not used; write account: nobody in the"
    assert done.stderr.count(line) == 1
    other = "SBATCH_ARRAY_INX=0-99 in your environment is not used; the sweep sets this itself"
    assert other in done.stderr


def test_living_jobs_are_seen_whatever_squeue_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT.items():
        if name.startswith(("SQUEUE_", "SLURM_CLUSTERS")):
            monkeypatch.setenv(name, value)
    clean = {name: value for name, value in os.environ.items() if name not in LEFT}
    words = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]
    job = subprocess.run(words, env=clean, capture_output=True, text=True, check=True).stdout
    try:
        assert alive([job.strip()]) == {job.strip(): "queued"}
    finally:
        subprocess.run(["scancel", job.strip()], env=clean, check=True)


def test_eval_sh_from_within_a_job_gives_the_sweeps_numbers(
    nested: tuple[Path, subprocess.CompletedProcess[str]], repository: Path, tmp_path: Path
) -> None:
    """sbatch itself reads some of them, before any line of ours; the others do no harm."""
    folder, _ = nested
    run = folder / "runs" / "nested"
    (cell,) = run.glob("cells/random-8k-s0-*")
    out = tmp_path / "eval.json"
    own = [
        f"HPCSCALE_DATA={run}",
        f"HPCSCALE_OUT={out}",
        f"HPCSCALE_SITE={folder}/site.yaml",
        f"HPCSCALE={Path(command()[0]).parent / 'hpcscale'}",
    ]
    read = [n for n in LEFT if n.startswith(("SBATCH_", "SLURM_CLUSTERS"))]
    inside_a_job(
        "env",
        *[f"--unset={name}" for name in read],
        *own,
        "sbatch",
        "--wait",
        "--nodes=1",
        "--ntasks-per-node=2",
        f"--output={tmp_path}/eval.log",
        str(repository / "slurm" / "eval.sh"),
        str(cell),
    )
    log = tmp_path / "eval.log"
    assert out.exists(), log.read_text() if log.exists() else "no log"
    (result,) = json.loads(out.read_text()).values()
    (record,) = run.glob("evaluations/random-8k-s0-*/evaluation.json")
    assert result["loss"] == pytest.approx(json.loads(record.read_text())["loss"], rel=1e-6)
