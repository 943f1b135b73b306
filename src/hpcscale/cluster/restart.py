"""When a job is told to stop, and the lines of its script that send it back into the queue."""

from __future__ import annotations

import math

from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import Preempted

#: srun's code tells how the ranks ended. Only a job that Slurm still counts as running is sent
#: back: one that was cancelled, requeued or timed out meanwhile is none of ours. The array
#: element is named, since the last element's own job id is that of its whole array.
_REQUEUE = """\
code=$?
# {stopped}: stopped, the state is saved; above 128: killed by a signal
if [ $code -eq {stopped} ] || [ $code -gt 128 ]; then
  job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
  job=${{job:-$SLURM_JOB_ID}}
  for _ in {{1..60}}; do
    if state=$(squeue --noheader --jobs="$job" --format=%T); then
      [ "$state" = RUNNING ] || break
      echo "hpcscale: the ranks ended with code $code; back into the queue"
      scontrol requeue "$job" && break
    fi
    sleep 5
  done
fi
exit $code
"""


def requeue_lines() -> list[str]:
    """Shell lines that go behind srun."""
    return _REQUEUE.format(stopped=Preempted.exit_code).split("\n")


def signal_lead(profile: SiteProfile, resources: Resources) -> int:
    """Seconds between USR2 and the time limit; a short job must not be told to stop at once."""
    return min(profile.signal_seconds, time_minutes(resources) * 60 // 4)


def time_minutes(resources: Resources) -> int:
    """The time limit in Slurm's unit, rounded up."""
    return math.ceil(resources.time / 60)
