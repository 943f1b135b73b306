"""What of a shell's environment reaches Slurm's commands and worker processes."""

from __future__ import annotations

import os

import pytest

from hpcscale.cluster.environment import (
    only_own_environment,
    own_environment,
    unused_options,
)
from hpcscale.config.profile import SiteProfile

MINE = {
    "HOME": "/home/a",
    "PATH": "/bin",
    "OMP_NUM_THREADS": "4",
    "HF_TOKEN": "x",
    "SLURM_CONF": "/etc/s.conf",
    "SLURM_JWT": "secret",
    "RANKING": "1",
}
OUTER = {
    "SBATCH_PARTITION": "p",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_ARRAY_INX": "0-99",
    "SLURM_CPU_BIND": "mask_cpu:0x1",
    "SLURM_MEM_PER_NODE": "100",
    "SLURM_CPUS_PER_TASK": "7",
    "SLURM_JOB_ID": "41",
    "SLURMD_NODENAME": "n1",
    "SALLOC_PARTITION": "p",
    "SRUN_DEBUG": "3",
    "SLURM_CLUSTERS": "other",
    "SLURM_TIME_FORMAT": "%s",
    "SQUEUE_STATES": "PENDING",
    "SACCT_FORMAT": "JobID",
    "SINFO_PARTITION": "p",
    "SCANCEL_PARTITION": "p",
    "SCONTROL_ALL": "1",
    "PMI_RANK": "1",
    "PMI2_X": "1",
    "PMIX_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "RANK": "3",
    "LOCAL_RANK": "3",
    "WORLD_SIZE": "9",
    "LOCAL_WORLD_SIZE": "9",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x",
    "CUDA_VISIBLE_DEVICES": "2",
    "ROCR_VISIBLE_DEVICES": "2",
    "HIP_VISIBLE_DEVICES": "2",
    "GPU_DEVICE_ORDINAL": "2",
    "TMPDIR": "/scratch/job-41",
}


def test_nothing_of_an_outer_job_is_left_and_all_of_ones_own_is() -> None:
    assert own_environment({**MINE, **OUTER}) == MINE
    assert own_environment(MINE) == MINE


@pytest.mark.parametrize(
    ("folder", "kept"),
    [
        ("/tmp", True),
        ("/scratch/41", False),
        ("/scratch/slurm.41.0", False),
        ("/scratch/411", True),
        ("/scratch/241x", True),
        ("/s/u41", False),
    ],
)
def test_a_folder_named_after_the_outer_job_is_not_passed_on(folder: str, kept: bool) -> None:
    left = own_environment({"SLURM_JOB_ID": "41", "TMPDIR": folder})
    assert left == ({"TMPDIR": folder} if kept else {})


def test_the_process_has_its_environment_back_after_a_submission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in OUTER.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with only_own_environment():
        assert not OUTER.keys() & os.environ.keys()
        assert os.environ["PATH"] == before["PATH"]
    assert dict(os.environ) == before
    with pytest.raises(ZeroDivisionError), only_own_environment():
        _ = 1 / 0
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "value", "way"),
    [
        ("SBATCH_ACCOUNT", "abc", "write account: abc in the site profile"),
        ("SBATCH_TIMELIMIT", "60", "write resources.default.time: 60 in the sweep file"),
        ("SBATCH_RESERVATION", "r", "write extra_sbatch: {reservation: r} in the site profile"),
        ("SBATCH_THREADS_PER_CORE", "1", "extra_sbatch: {threads-per-core: 1}"),
        ("SBATCH_EXCLUSIVE", "", "extra_sbatch: {exclusive: true}"),
        ("SBATCH_ARRAY_INX", "0-9", "the sweep sets this itself"),
        ("SLURM_CLUSTERS", "b", "set SLURM_CONF to"),
    ],
)
def test_an_option_that_does_not_count_is_named_with_what_to_write_instead(
    name: str, value: str, way: str
) -> None:
    (line,) = unused_options({**MINE, name: value}, SiteProfile(name="s"))
    assert line.startswith(f"{name}={value} in your environment is not used; ")
    assert way in line


def test_nothing_is_said_of_what_the_profile_says_or_slurm_has_set() -> None:
    site = SiteProfile(name="s", account="abc", extra_sbatch={"reservation": "r"})
    environ = {"SBATCH_ACCOUNT": "abc", "SBATCH_RESERVATION": "r", "SQUEUE_FORMAT": "%i"}
    assert unused_options(environ, site) == []
    assert (
        unused_options(
            {"SBATCH_CPU_BIND": "quiet", "SLURM_CPU_BIND": "quiet", "SLURM_JOB_ID": "1"}, site
        )
        == []
    )
    (line,) = unused_options({"SLURM_MPI_TYPE": "pmix", "SLURM_HINT": "x"}, site)
    assert "SLURM_HINT, SLURM_MPI_TYPE in your environment are not used" in line
    assert "srun_args" in line
