"""Worker processes on this machine, forked from a server that has the heavy imports done."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from hpcscale.cluster.environment import launcher_leftovers

#: Imported once by the server; each costs seconds, a fork costs milliseconds.
PRELOAD = ["torch", "transformers.models.gpt2.modeling_gpt2", "pyarrow.parquet"]
ENTRY = "hpcscale.worker.run:run_tasks_entry"
_WATCH = 1.0


@dataclass
class LocalJob:
    """The processes, one a rank, of one array element."""

    task_ids: list[str]
    processes: list[ForkServerProcess]

    def poll(self) -> int | None:
        """None while any rank runs; then 0, or the code of the first rank that failed.

        Negative codes are signals. When one rank dies, the others are ended.
        """
        codes = [process.exitcode for process in self.processes]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            for process in self.processes:
                if process.exitcode is None:
                    process.kill()
            for process in self.processes:
                process.join()
            return failed
        return None if any(code is None for code in codes) else 0

    def terminate(self) -> None:
        """Ask for a clean stop: save, then exit."""
        for process in self.processes:
            if process.exitcode is None:
                process.terminate()

    def kill(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
            process.join()


def start(
    run_dir: Path,
    task_ids: Sequence[str],
    *,
    ranks: int,
    cpus: int,
    gpus: Sequence[int],
    log: Path,
) -> LocalJob:
    """Start ``ranks`` processes of ``cpus`` threads each; rank i sees the i-th of ``gpus``.

    ``gpus`` count what this process may use: in a job that has GPUs 2 and 3, 0 is GPU 2.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    log.parent.mkdir(parents=True, exist_ok=True)
    usable = gpu_names()
    shared = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(cpus),
        "CUDA_VISIBLE_DEVICES": ",".join(usable[gpu] for gpu in gpus),
    }
    processes = []
    for rank in range(ranks):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(
            target=_rank_main,
            args=(environment, str(run_dir), list(task_ids), str(log), os.getpid()),
            name=f"hpcscale-{task_ids[0]}-rank{rank}",
            daemon=False,
        )
        process.start()
        processes.append(process)
    return LocalJob(list(task_ids), processes)


def _rank_main(
    environment: dict[str, str], run_dir: str, task_ids: list[str], log: str, sweep: int
) -> None:
    # Ctrl-C reaches the whole terminal; the sweep decides what to do and says it by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_with, args=(sweep,), daemon=True).start()
    # torchrun's would keep rank 0 from opening the store at which the ranks meet.
    for name in launcher_leftovers(os.environ):
        del os.environ[name]
    os.environ.update(environment)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    module, _, function = ENTRY.partition(":")
    from hpcscale.errors import Preempted

    try:
        code = getattr(importlib.import_module(module), function)(run_dir, task_ids)
    except Preempted as error:
        print(f"hpcscale: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def _stop_with(sweep: int) -> None:
    """Where the sweep itself is killed, its ranks save and stop rather than run on unseen."""
    while _lives(sweep):
        time.sleep(_WATCH)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(pid: int) -> bool:
    """A zombie, which waits for its parent to collect it, does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, by their device files, without importing torch."""
    return len(gpu_names())


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    As CUDA reads it, the list ends at the first entry that is not a GPU of this machine.
    """
    files = sum(1 for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None or not files:
        return [str(number) for number in range(files)]
    names = [name.strip() for name in mask.split(",")]
    return list(itertools.takewhile(lambda name: _is_gpu(name, files), names))


def _is_gpu(name: str, files: int) -> bool:
    return name.startswith(("GPU-", "MIG-")) or (name.isdigit() and int(name) < files)


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
