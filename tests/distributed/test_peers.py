"""A rank that is killed, as those that are left see it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.distributed
KNOWN, UNKNOWN = 3, 4
RANK = f"""
import os, signal, sys
import torch
from hpcscale.train.distributed import Ranks, peer_is_gone

ranks = Ranks.from_environment()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(300, 300))
for step in range(10_000):
    if step == 50 and ranks.rank == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        if sys.argv[2] == "sum":
            ranks.all_sum([1.0])
        else:
            model(torch.ones(8, 300)).sum().backward()
    except Exception as error:
        print(type(error), error, flush=True)
        os._exit({KNOWN} if peer_is_gone(error) else {UNKNOWN})
"""


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("collective", ["sum", "backward"])
def test_the_others_know_that_it_was_no_fault_of_theirs(victim: int, collective: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(victim), collective],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(3)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    codes = [rank.returncode for rank in ranks]
    assert codes.pop(victim) == -signal.SIGKILL
    assert codes == [KNOWN, KNOWN], outputs
