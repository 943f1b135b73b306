"""Snapshots of a proxy run: its weights and Adam's second moments at the end of each interval.

step-00000040/model/                      weights in Hugging Face format
step-00000040/moments-00000.safetensors   the fragments that rank 0 held, keys ``name@start``
step-00000040/snapshot.json               step, tokens, eta, what Adam's metric is made of

eta of a snapshot is the sum of the learning rates of its interval's steps. Adam's metric at a
snapshot is diagonal, P = 1 / (sqrt(v / (1 - beta2^t)) + eps), with the run's own eps inside the
sum as in its updates (Kingma and Ba 2015, algorithm 1), and P = 0 where v = 0: such an element,
the embedding of a position that no row reaches for one, had no gradient in the whole run.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpcscale.atomic import fsync_directory, read_json, settle, write_json
from hpcscale.config.train import TrainConfig
from hpcscale.errors import CheckpointError
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.factors import Direction
from hpcscale.model.build import save_model
from hpcscale.train.batching import BatchPlan
from hpcscale.train.checkpoint import Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.tag_files import tag_of
from hpcscale.train.watch import Silent

_FACTS = "snapshot.json"
_PARTIAL = ".partial"


class Snapshots(Silent):
    """Writes a snapshot at the end of each interval; a resumed run writes later ones again."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        config: TrainConfig,
        intervals: CheckpointSchedule,
        ranks: Ranks,
    ) -> None:
        """``model``: the plain module, not yet given to an engine."""
        self.folder, self.model, self.config = folder, model, config
        self.intervals, self.ranks = intervals, ranks
        # An engine may cut the parameters up, and their shapes with them.
        self.shapes = {n: list(p.shape) for n, p in model.named_parameters() if p.requires_grad}

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        """Raises CheckpointError where a snapshot is gone that the run will not come by again."""
        assert plan.steps == len(self.intervals.rates)
        for step in self.intervals.ends:
            if step <= position.step and not (self.folder / tag_of(step) / _FACTS).exists():
                raise CheckpointError(
                    f"the run goes on from step {position.step}, but its snapshot "
                    f"{self.folder / tag_of(step)} is missing; delete the run's checkpoints to "
                    "start over"
                )
        if self.ranks.rank == 0 and self.folder.is_dir():
            for old in self.folder.glob("step-*"):
                if old.name.endswith(_PARTIAL) or _step_of(old) > position.step:
                    shutil.rmtree(old)
        self.ranks.barrier()

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        if position.step not in self.intervals.ends:
            return
        final = self.folder / tag_of(position.step)
        partial = final.with_name(final.name + _PARTIAL)
        if self.ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.ranks.barrier()
        weights = engine.weights()
        if self.ranks.rank == 0:
            save_model(self.model, partial / "model", weights)
        del weights
        updates = self._write_moments(engine, partial / _moments_name(self.ranks.rank))
        self.ranks.barrier()
        if self.ranks.rank == 0:
            write_json(partial / _FACTS, self._facts(position, updates))
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            fsync_directory(self.folder)
        self.ranks.barrier()

    def _write_moments(self, engine: Engine, path: Path) -> int:
        moments = engine.moments()
        save_file({f"{f.name}@{f.start}": f.values for f in moments.fragments}, path)
        settle(path)
        return moments.updates

    def _facts(self, position: Position, updates: int) -> dict[str, Any]:
        interval = self.intervals.of_step(position.step)
        return {
            "step": position.step,
            "tokens": position.tokens,
            "interval": interval,
            "eta": self.intervals.eta(interval),
            "t": updates,
            "beta2": self.config.beta2,
            "eps": self.config.eps,
            "world_size": self.ranks.world_size,
            "shapes": self.shapes,
        }


@dataclass(frozen=True)
class Snapshot:
    """One snapshot on disk. ``eta``: the sum of the learning rates that it stands for."""

    folder: Path
    step: int
    tokens: int
    interval: int
    eta: float
    t: int
    beta2: float
    eps: float
    world_size: int
    shapes: dict[str, list[int]]

    @property
    def model(self) -> Path:
        """The folder that ``load_model`` takes."""
        return self.folder / "model"

    def preconditioner(
        self, power: float, device: torch.device, eps: float | None = None
    ) -> Direction:
        """Adam's metric P to the power ``power``, float32 of each parameter's shape, by name.

        ``eps`` replaces the run's own. Raises CheckpointError for a fragment that is missing,
        overlaps another or cannot be read.
        """
        eps = self.eps if eps is None else eps
        correction = 1 - self.beta2**self.t
        metric = {}
        for name, v in self._moments():
            inverse = v.div(correction).sqrt_().add_(eps)
            metric[name] = torch.where(v == 0, 0.0, inverse.pow_(-power)).to(device)
        return metric

    def second_moments(self) -> Direction:
        """Adam's v as the optimizer kept it, float32 on the CPU, by name. Raises as above."""
        return dict(self._moments())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """Parameter by parameter, from the fragments of all ranks that wrote any."""
        with ExitStack() as stack:
            files = [stack.enter_context(_opened(path)) for path in self._files()]
            places: dict[str, list[tuple[int, int]]] = {name: [] for name in self.shapes}
            for number, file in enumerate(files):
                for key in file.keys():  # noqa: SIM118 -- a safe_open is no dict
                    name, _, start = key.rpartition("@")
                    places.setdefault(name, []).append((int(start), number))
            for name, shape in self.shapes.items():
                yield name, self._whole(name, shape, sorted(places[name]), files)

    def _files(self) -> list[Path]:
        return [self.folder / _moments_name(rank) for rank in range(self.world_size)]

    def _whole(
        self, name: str, shape: list[int], places: list[tuple[int, int]], files: list[Any]
    ) -> Tensor:
        whole, filled = torch.empty(math.prod(shape)), 0
        for start, number in places:
            part = files[number].get_tensor(f"{name}@{start}")
            end = start + part.numel()
            if start != filled or end > whole.numel():
                where = self.folder / _moments_name(number)
                raise CheckpointError(
                    f"{where} holds the elements {start} to {end} of {name}, where those from "
                    f"{filled} of {whole.numel()} were due; {AGAIN}"
                )
            whole[start:end] = part
            filled = end
        if filled < whole.numel():
            raise CheckpointError(
                f"{self.folder / 'moments-*.safetensors'} hold the first {filled} of "
                f"{whole.numel()} elements of {name} and no more; {AGAIN}"
            )
        return whole.view(shape)


#: The way out where a snapshot is missing or broken.
AGAIN = "delete the proxy run's task and run the same `hpcscale sweep` again"


def _moments_name(rank: int) -> str:
    return f"moments-{rank:05d}.safetensors"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {AGAIN}") from error
    with opened as file:
        yield file


def read_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in ``folder``, by step. Raises CheckpointError where there is none."""
    found = [path for path in folder.glob("step-*") if not path.name.endswith(_PARTIAL)]
    if not found:
        raise CheckpointError(f"{folder} holds no snapshot; {AGAIN}")
    return sorted((read_snapshot(path) for path in found), key=lambda snapshot: snapshot.step)


def is_snapshot(folder: Path) -> bool:
    """Whether ``read_snapshot`` can read it."""
    return (folder / _FACTS).exists()


def read_snapshot(folder: Path) -> Snapshot:
    """One snapshot. Raises TaskError where it is damaged."""
    return Snapshot(folder, **read_json(folder / _FACTS))


def _step_of(folder: Path) -> int:
    return int(folder.name.partition("-")[2])
