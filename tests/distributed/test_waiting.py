"""A rank whose peers do not come says what it waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
RANK = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from hpcscale.train.distributed import Ranks

print(Ranks.from_environment().all_sum([1.0])[0], flush=True)
os._exit(0)
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(rank: int, world_size: int, port: str) -> subprocess.Popen[str]:
    ours = {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    others = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    return subprocess.Popen(
        [sys.executable, "-c", RANK],
        env={**others, **ours},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_alone_says_whom_it_waits_for_and_what_to_do(rank: int) -> None:
    port = free_port()
    alone = start(rank, 2, port)
    assert alone.stderr is not None
    started = time.monotonic()
    line = next(line for line in alone.stderr if line.startswith("hpcscale: "))
    assert time.monotonic() - started > 9
    for part in (
        f"hpcscale: rank {rank} has waited 1",
        f" s for all 2 ranks to meet at 127.0.0.1:{port}",
        f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}",
        "for a single process: unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT",
    ):
        assert part in line
    other = start(1 - rank, 2, port)
    output, rest = other.communicate(timeout=60)
    assert output == "2.0\n"
    assert "hpcscale: " not in rest, "a rank that need not wait is silent"
    output, rest = alone.communicate(timeout=60)
    assert output == "2.0\n", "it goes on as soon as the other one is there"
    assert "hpcscale: " not in rest


def test_ctrl_c_ends_a_rank_that_waits() -> None:
    port = free_port()
    alone = start(0, 2, port)
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", int(port))):
            time.sleep(0.1)
    time.sleep(0.5)
    alone.send_signal(signal.SIGINT)
    assert alone.wait(timeout=30) == -signal.SIGINT
