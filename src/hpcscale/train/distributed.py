"""The ranks of a task: which one this process is, and the collectives by which they agree."""

from __future__ import annotations

import atexit
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from hpcscale.errors import ClusterError, HpcscaleError

_TIMEOUT = timedelta(minutes=30)
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", *_RENDEZVOUS)
#: Seconds before a rank says what it waits for, and then between its reminders.
_FIRST_WORD, _NEXT_WORD = 10.0, 60.0

Number = TypeVar("Number", np.uint8, np.int64, np.float64)


@dataclass
class Ranks:
    """One process of a task. The process group outlives it: tasks of one element share it.

    The methods after ``open_group`` are collective: all ranks call them in the same order. They
    move plain numbers, never pickled objects. A rank that is alone gets its own values back, and no
    process group is needed.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and join the others.

        NCCL where the rank has a GPU, gloo elsewhere. Raises ClusterError where a variable that
        several ranks need is not set.
        """
        rank, local, world = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
        )
        device = torch.device("cpu")
        if torch.cuda.is_available():
            # Where each rank sees its own GPU alone, that GPU is number 0.
            device = torch.device("cuda", local % torch.cuda.device_count())
            torch.cuda.set_device(device)
        ranks = cls(rank, local, world, device)
        if world > 1:
            missing = [name for name in _RENDEZVOUS if not os.environ.get(name)]
            if missing:
                raise ClusterError(
                    f"WORLD_SIZE is {world}, but {' and '.join(missing)} is not set; start ranks "
                    "with `hpcscale sweep`, srun or torchrun"
                )
            ranks.open_group()
        return ranks

    def open_group(self) -> None:
        """Join the process group, unless done already; DeepSpeed needs one even for one rank."""
        if dist.is_initialized():
            return
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        if self.world_size == 1:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        else:
            with _say_what_it_waits_for(self.rank, self.world_size), _interruptible():
                dist.init_process_group(
                    backend, rank=self.rank, world_size=self.world_size, timeout=_TIMEOUT
                )

    def all_sum(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Element-wise sum over ranks, in float64."""
        return self._reduced(np.asarray(values, dtype=np.float64), dist.ReduceOp.SUM)

    def all_max(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Element-wise maximum over ranks, of integers."""
        return self._reduced(np.asarray(values, dtype=np.int64), dist.ReduceOp.MAX)

    def any_true(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank."""
        return self.any_of_each([flag])[0]

    def any_of_each(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each of ``flags`` is set on any rank: one collective for all of them."""
        if self.world_size == 1:
            return [bool(flag) for flag in flags]
        set_somewhere = self._reduced(np.array(flags, dtype=np.uint8), dist.ReduceOp.MAX)
        return [bool(flag) for flag in set_somewhere]

    def broadcast(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Rank 0's list of integers; the other ranks' lists, of any length, are ignored."""
        array = np.asarray(values, dtype=np.int64)
        if self.world_size == 1:
            return array
        size = self._tensor(np.array([len(array)]))
        dist.broadcast(size, src=0)
        tensor = self._tensor(array if self.rank == 0 else np.zeros(int(size), dtype=np.int64))
        if len(tensor):
            dist.broadcast(tensor, src=0)
        sent: npt.NDArray[np.int64] = tensor.cpu().numpy()
        return sent

    def all_gather(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The arrays of all ranks by rank: [world_size, *shape].

        ``values``: uint8, int64 or float64, of one shape and dtype on all ranks.
        """
        if self.world_size == 1:
            return values[None]
        mine = self._tensor(values)
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine)
        gathered: npt.NDArray[Number] = torch.stack(parts).cpu().numpy()
        return gathered

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def _reduced(
        self, array: npt.NDArray[Number], operation: dist.ReduceOp.RedOpType
    ) -> npt.NDArray[Number]:
        if self.world_size == 1:
            return array
        tensor = self._tensor(array)
        dist.all_reduce(tensor, operation)
        reduced: npt.NDArray[Number] = tensor.cpu().numpy()
        return reduced

    def _tensor(self, array: npt.NDArray[Number]) -> torch.Tensor:
        """A copy on the rank's device: collectives write to what they are given."""
        return torch.tensor(array, device=self.device)


@contextmanager
def _say_what_it_waits_for(rank: int, world_size: int) -> Iterator[None]:
    """Say on stderr, from a thread, that the ranks have not met yet: torch itself is silent."""
    met = threading.Event()
    started = time.monotonic()

    def say() -> None:
        pause = _FIRST_WORD
        while not met.wait(pause):
            pause = _NEXT_WORD
            seconds = time.monotonic() - started
            print(_waiting(rank, world_size, seconds), file=sys.stderr, flush=True)

    threading.Thread(target=say, name="hpcscale-rendezvous", daemon=True).start()
    try:
        yield
    finally:
        met.set()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process: torch waits in C++, where Python's own handler never runs."""
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or handler is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _waiting(rank: int, world_size: int, seconds: float) -> str:
    given = {name: os.environ[name] for name in _RANK_VARIABLES if name in os.environ}
    return (
        f"hpcscale: rank {rank} has waited {seconds:.0f} s for all {world_size} ranks to meet at "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}, because the environment "
        f"says {' '.join(f'{name}={value}' for name, value in given.items())}; start the other "
        "ranks, or see their logs where they have ended; for a single process: "
        f"unset {' '.join(given)}"
    )


#: What gloo, NCCL and the rendezvous store say when the process at the other end has ended.
_GONE = (
    "connection reset",
    "connection closed",
    "connection was likely closed",
    "broken pipe",
    "socket closed",
    "remote process exit",
)


def peer_is_gone(error: BaseException) -> bool:
    """Whether a collective raised this because another rank ended.

    False for every HpcscaleError, whatever text it quotes.
    """
    text = str(error).lower()
    of_torch = isinstance(error, RuntimeError) and not isinstance(error, HpcscaleError)
    return of_torch and any(words in text for words in _GONE)


def peak_memory(ranks: Ranks) -> int:
    """Bytes: of this rank's GPU, or of the process."""
    if ranks.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(ranks.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(ranks: Ranks) -> str:
    """The GPU's model, or the processor's architecture."""
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_name(ranks.device)
    return platform.machine()


def device_memory(ranks: Ranks) -> int:
    """Bytes: of this rank's GPU, or its share of this machine's memory if all ranks were here."""
    if ranks.device.type == "cuda":
        return int(torch.cuda.get_device_properties(ranks.device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks.world_size


def close_group() -> None:
    """Leave the process group, if one was joined; called once, when all tasks succeeded."""
    if not dist.is_initialized():
        return
    dist.barrier()
    dist.destroy_process_group()
    skip_teardown(0)


def skip_teardown(code: int) -> None:
    """End the process with ``code`` before C++ objects are torn down.

    Threads of gloo can outlive their group, and teardown aborts on them: a rank that finished or
    saved its work would look like one that crashed.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
