"""What a job does once its ranks have ended: back into the queue, or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcscale.cluster.restart import requeue_lines, signal_lead
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from sites import Fake, fake

__all__ = ["fake"]  # a fixture


ARRAY_TASK = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "5"}


@pytest.mark.parametrize(
    ("code", "state", "environment", "asked"),
    [
        (75, "RUNNING", ARRAY_TASK, "5_3"),
        (137, "RUNNING", {"SLURM_JOB_ID": "9"}, "9"),
        (140, "RUNNING", ARRAY_TASK, "5_3"),
        (75, "COMPLETING", ARRAY_TASK, None),
        (137, "RUNNING", {**ARRAY_TASK, "SLURM_RESTART_COUNT": "3"}, None),
        (1, "RUNNING", ARRAY_TASK, None),
        (0, "RUNNING", ARRAY_TASK, None),
    ],
)
def test_what_was_stopped_or_killed_goes_back_into_the_queue(
    fake: Fake,
    tmp_path: Path,
    code: int,
    state: str,
    environment: dict[str, str],
    asked: str | None,
) -> None:
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


def test_requeueing_waits_for_a_controller_that_is_away(fake: Fake, tmp_path: Path) -> None:
    fake("srun", "exit 75")
    fake("sleep", f"touch {tmp_path}/waited")
    fake("squeue", f"test -e {tmp_path}/waited && echo RUNNING")
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 2)])
    subprocess.run(
        ["bash", "-c", script], env={"PATH": os.environ["PATH"], **ARRAY_TASK}, check=False
    )
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_requeueing_sees_its_job_whatever_squeue_is_told(fake: Fake, tmp_path: Path) -> None:
    fake("srun", "exit 75")
    fake("squeue", '[ "$1" = --all ] && [ -z "$SQUEUE_STATES$SLURM_CLUSTERS" ] && echo RUNNING')
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    fake("sleep", "exit 1")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 2)])
    told = {"SQUEUE_STATES": "PENDING", "SLURM_CLUSTERS": "elsewhere"}
    environment = {"PATH": os.environ["PATH"], **ARRAY_TASK, **told}
    subprocess.run(["bash", "-c", script], env=environment, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_a_failure_is_not_taken_for_the_signal_that_ended_the_other_ranks(
    fake: Fake, tmp_path: Path
) -> None:
    """Nor for one of an earlier start."""
    fake(
        "srun", f"{sys.executable} -c 'from hpcscale.cluster.restart import fail; fail()'; exit 143"
    )
    fake("squeue", "echo RUNNING")
    fake("scontrol", f"echo $@ >>{tmp_path}/asked")
    script = "\n".join(["srun", *requeue_lines(tmp_path, 9)])
    environment = {"PATH": os.environ["PATH"], **ARRAY_TASK, "SUBMITIT_FOLDER": str(tmp_path)}
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == 1
    assert not (tmp_path / "asked").exists()
    fake("srun", "exit 143")
    again = environment | {"SLURM_RESTART_COUNT": "1"}
    subprocess.run(["bash", "-c", script], env=again, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"


def test_a_short_job_is_not_told_to_stop_as_soon_as_it_starts() -> None:
    site = SiteProfile(name="s", signal_seconds=90)
    assert signal_lead(site, Resources(time="4h")) == 90  # type: ignore[arg-type]
    assert signal_lead(site, Resources(time="2m")) == 30  # type: ignore[arg-type]
