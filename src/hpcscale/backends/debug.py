"""Run one task after the other in this process, where a debugger can follow it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcscale.backends.base import Backend, Say, Submission
from hpcscale.backends.display import Display
from hpcscale.backends.local import this_machine
from hpcscale.cluster.environment import launcher_leftovers
from hpcscale.config.profile import SiteProfile
from hpcscale.plan.resources import Machine


class Debug(Backend):
    name = "debug"

    def machine(self, profile: SiteProfile) -> Machine:
        return this_machine()

    def start(self, submission: Submission, display: Display, say: Say) -> bool:
        from hpcscale.worker.run import run_tasks

        for name in launcher_leftovers(os.environ):
            del os.environ[name]
        os.environ.update(RANK="0", WORLD_SIZE="1")
        failed = 0
        with display:
            for task in submission.tasks:
                code = run_tasks(submission.run_dir, [task.id])
                failed = failed or code
                if code:
                    display.failed(task, Path(sys.stderr.name if sys.stderr else "stderr"))
                else:
                    display.finished(task)
        return not failed
