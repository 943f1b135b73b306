"""What runs first on a node: Slurm's variables become a rank's, then the tasks run."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping

from hpcscale.cluster.local import ENTRY
from hpcscale.cluster.restart import fail
from hpcscale.errors import Preempted
from hpcscale.train.signals import StopFlag

#: Outside the ephemeral range of Linux, 32768 to 60999.
_FIRST_PORT, _PORTS = 61000, 4536
_RANK_0_FIRST = 10.0
_RANGE = re.compile(r"^([^\[\],]*)\[([^\]]*)\](.*)$")


def run_element(run_dir: str, task_ids: list[str], max_restarts: int) -> int:
    """One rank of an array element; the function that submitit carries to the node.

    A rank that is asked to stop ends with the code of Preempted, by which the batch script knows
    to send the element back into the queue; one whose task failed leaves a file that says so.
    """
    os.environ.update(rank_environment(os.environ))
    module, _, function = ENTRY.partition(":")
    try:
        # From here on, not only once the imports are done, which takes seconds.
        with StopFlag():
            entry = getattr(importlib.import_module(module), function)
            code = entry(run_dir, task_ids, max_restarts)
    except Preempted as stop:
        print(f"hpcscale: {stop}", file=sys.stderr)
        _let_rank_0_go_first()
        # At once: threads of the process group may wait for ranks that have left already.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.exit_code)
    except Exception:
        traceback.print_exc()
        fail()
    if code:
        print(f"hpcscale: one of {', '.join(task_ids)} failed; see above", file=sys.stderr)
        fail()
    return 0


def _let_rank_0_go_first() -> None:
    """Rank 0 keeps the records, and srun ends the other ranks when the first one leaves.

    They are ended so that none waits for one that was stopped before its training.
    """
    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stderr.flush()
        time.sleep(_RANK_0_FIRST)


def rank_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and the rest from the variables of a Slurm step; empty outside one.

    The master is the first host; its port follows from the element's own job id, so that jobs on
    one node do not collide.
    """
    if "RANK" in environ or "SLURM_STEP_ID" not in environ:
        return {}
    nodes = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    port = _FIRST_PORT + int(environ["SLURM_JOB_ID"]) % _PORTS
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1"),
        "MASTER_ADDR": expand_hosts(nodes)[0],
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS")
        or environ.get("SLURM_CPUS_PER_TASK", "1"),
    }


def expand_hosts(text: str) -> list[str]:
    """``node[1-3,07],login`` as a list; nested brackets as in ``r[1-2]n[1-2]`` too."""
    return [host for part in _split(text) for host in _expand(part)]


def _split(text: str) -> list[str]:
    """At commas outside brackets."""
    return [part for part in re.split(r",(?![^\[]*\])", text) if part]


def _expand(part: str) -> list[str]:
    match = _RANGE.match(part)
    if not match:
        return [part]
    head, ranges, rest = match.groups()
    numbers: list[str] = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        width = len(first)
        numbers += [str(n).zfill(width) for n in range(int(first), int(last or first) + 1)]
    return [f"{head}{number}{tail}" for number in numbers for tail in _expand(rest)]
