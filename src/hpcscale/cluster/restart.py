"""When a job is told to stop, and the lines of its script that send it back into the queue."""

from __future__ import annotations

import math
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import Preempted

_FAILED_CODE = 1
#: srun ends the other ranks of one that failed by a signal, and then returns that signal's code: a
#: failure therefore leaves a file. Only a job that Slurm still counts as running is sent back: one
#: that was cancelled, requeued or timed out meanwhile is not ours. The array element is named,
#: since the last element's own job id is that of its whole array. The task itself ends restarts
#: that are too many, and says so (rundir/attempts.py); the count here is for one that never
#: gets so far.
_REQUEUE = """\
code=$?
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}
restarts=${{SLURM_RESTART_COUNT:-0}}
[ -e {folder}/failed-"$job-$restarts" ] && exit 1
# {stopped}: stopped, the state is saved; above 128: killed by a signal
if [ $code -eq {stopped} ] || [ $code -gt 128 ] && [ "$restarts" -le {most} ]; then
  # Options that the site's modules or setup lines may have exported.
  unset "${{!SQUEUE_@}}" "${{!SCONTROL_@}}" SLURM_CLUSTERS
  for _ in {{1..60}}; do
    if state=$(squeue --all --noheader --jobs="$job" --format=%T); then
      [ "$state" = RUNNING ] || break
      echo "hpcscale: the ranks ended with code $code; back into the queue"
      scontrol requeue "$job" && break
    fi
    sleep 5
  done
fi
exit $code
"""


def requeue_lines(folder: Path, max_restarts: int) -> list[str]:
    """Shell lines that go behind srun. ``folder``: of the stage's logs, which all nodes see."""
    text = _REQUEUE.format(
        folder=shlex.quote(str(folder)), stopped=Preempted.exit_code, most=max_restarts
    )
    return text.split("\n")


def fail() -> NoReturn:
    """End this rank at once, as a failure of its task that another attempt would not help."""
    sys.stdout.flush()
    sys.stderr.flush()
    job, folder = job_name(), os.environ.get("SUBMITIT_FOLDER")
    if job and folder:
        with suppress(OSError):
            (Path(folder) / f"failed-{job}-{restarts()}").touch()
    os._exit(_FAILED_CODE)


def job_name() -> str | None:
    """The array element, or the job, that this process runs in."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often Slurm has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def signal_lead(profile: SiteProfile, resources: Resources) -> int:
    """Seconds between USR2 and the time limit; a short job must not be told to stop at once."""
    return min(profile.signal_seconds, time_minutes(resources) * 60 // 4)


def time_minutes(resources: Resources) -> int:
    """The time limit in Slurm's unit, rounded up."""
    return math.ceil(resources.time / 60)
