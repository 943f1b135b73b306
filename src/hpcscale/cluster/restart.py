"""When a job is told to stop, and the lines of its script that send it back into the queue."""

from __future__ import annotations

import math

from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import Preempted

#: The code of a rank whose task failed. srun returns the highest code of a step, and ends the other
#: ranks by a signal: a failure stands above every signal's code, which is 192 at most.
FAILED = 200

#: Only a job that Slurm still counts as running is sent back: one that was cancelled, requeued or
#: timed out meanwhile is none of ours. The array element is named, since the last element's own
#: job id is that of its whole array. The task itself ends restarts that are too many, and says so
#: (pipeline/attempts.py); the count here is for one that never gets so far.
_REQUEUE = """\
code=$?
# {stopped}: stopped, the state is saved; 129 to 192: killed by a signal
if [ $code -eq {stopped} ] || {{ [ $code -gt 128 ] && [ $code -le 192 ]; }}; then
  job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
  job=${{job:-$SLURM_JOB_ID}}
  [ "${{SLURM_RESTART_COUNT:-0}}" -le {most} ] || exit $code
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


def requeue_lines(max_restarts: int) -> list[str]:
    """Shell lines that go behind srun."""
    return _REQUEUE.format(stopped=Preempted.exit_code, most=max_restarts).split("\n")


def signal_lead(profile: SiteProfile, resources: Resources) -> int:
    """Seconds between USR2 and the time limit; a short job must not be told to stop at once."""
    return min(profile.signal_seconds, time_minutes(resources) * 60 // 4)


def time_minutes(resources: Resources) -> int:
    """The time limit in Slurm's unit, rounded up."""
    return math.ceil(resources.time / 60)
