"""Gradients of the documents that a run trains on, taken from the training backward itself.

One row a *piece*: the tokens of one document in one packed row, or with ``unit: sequence`` the
whole packed row. A row is the sketch of

    sum over the piece's tokens of d nll_t / d theta, over n

at the weights that the step began with, n the tokens that the document has in the stream (or the
packed row has). The rows of a document therefore add up to the gradient of its mean token loss,
where one step holds all of them; over several steps each has its own weights and learning rate.

Under ``isolate`` packing a piece's tokens are seen by no other document, and the row is the
gradient of the piece's own loss, exactly. Under ``concat`` a document's tokens are context of the
documents behind it in the packed row, and what their losses ask of these tokens is part of its row:
the rows of a packed row add up to the gradient of the packed row's loss either way.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpcscale.data.packing import Batch, PackedStream
from hpcscale.influence.capture_limits import check_capture
from hpcscale.influence.capture_store import (
    MANIFEST,
    CaptureWriter,
    lost_rows,
    rank_folder,
    rank_folders,
    write_manifest,
)
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.factors import Factor, factor_hooks
from hpcscale.influence.gradient_shards import STORED, pack
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.influence.spans import TokenGroups, Unit, spans_of
from hpcscale.train.batching import BatchPlan
from hpcscale.train.checkpoint import Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.watch import Silent


@dataclass
class _Pass:
    """One forward and backward: ``wide`` is summed during it, then multiplied by ``scale``."""

    wide: Tensor
    scale: Tensor
    groups: TokenGroups | None
    values: dict[str, npt.NDArray[Any]]
    seen: set[str]


class Capture(Silent):
    """Hooks into the backward passes of a run, and writes a row a piece to this rank's own files.

    Rows are durable before the training state is; a run that resumes from a checkpoint writes those
    of later steps again. ``seal`` finishes the files; leaving the context removes the hooks.
    """

    wants_positions = True

    def __init__(
        self,
        folder: Path,
        stream: PackedStream,
        ids: npt.NDArray[np.uint64],
        projection: Projection,
        intervals: CheckpointSchedule,
        ranks: Ranks,
        *,
        unit: Unit = "document",
        dtype: str = "fp16",
    ) -> None:
        """ids: uint64, of each of the stream's documents. dtype: fp16, bf16 or fp32, of storage."""
        self.folder, self.stream, self.ids = folder, stream, ids
        self.projection, self.intervals, self.ranks = projection, intervals, ranks
        self.unit, self.dtype = unit, dtype
        self.document_tokens = stream.document_tokens
        assert len(ids) == len(self.document_tokens)
        self._seen_rows: list[tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]] = []
        self._pass: _Pass | None = None
        self._open = ExitStack()

    def started(self, engine: Engine, position: Position, plan: BatchPlan) -> None:
        """Raises ConfigError for an engine whose modules cannot be hooked, and CheckpointError
        where rows of earlier steps are missing."""
        check_capture(zero=engine.stage, precision=engine.precision, compiled=engine.compiled)
        self.engine, self.plan = engine, plan
        self.sketch = Sketch(engine.module, self.projection, self.ranks.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.ranks.rank == 0:
            (self.folder / MANIFEST).unlink(missing_ok=True)
        self.writer = self._writer(rank_folder(self.folder, self.ranks.rank))
        found = self.writer.cut_behind(position.step)
        self._open.callback(self.writer.close)
        for other in self._left_over():
            writer = self._writer(other)
            found += writer.cut_behind(position.step)
            writer.commit()
            writer.close()
        self._check_rows(position.step, found)
        self._open.enter_context(factor_hooks(engine.module, self._on_factor))

    def _left_over(self) -> list[Path]:
        """This rank's share of what ranks left that this attempt does not have."""
        rank, world = self.ranks.rank, self.ranks.world_size
        numbers = [(int(path.name.partition("-")[2]), path) for path in rank_folders(self.folder)]
        return [path for number, path in numbers if number >= world and number % world == rank]

    def _writer(self, folder: Path) -> CaptureWriter:
        return CaptureWriter(folder, self.sketch.dimension, STORED[self.dtype][0])

    def _check_rows(self, step: int, found: int) -> None:
        expected = 0
        if step:
            first, last = self.plan.step_rows(step - 1)
            expected = len(spans_of(self.stream.rows(first, last).segments, self.unit))
        total = int(self.ranks.all_sum([found])[0])
        if total != expected:
            raise lost_rows(self.folder, step, total, expected)

    def before_pass(self, batch: Batch, step_tokens: int, weightless: bool) -> None:
        self._end_pass()
        if weightless:
            return
        pieces = spans_of(batch.segments, self.unit)
        own_tokens = batch.tokens[pieces.row]
        identity = (batch.first_row + pieces.row).astype(np.uint64)
        if self.unit == "document":
            own_tokens, identity = self.document_tokens[pieces.owner], self.ids[pieces.owner]
        scale = torch.from_numpy(step_tokens / (self.engine.loss_factor * own_tokens))
        device = self.ranks.device
        # Rows of one piece are summed as rows; behind the last token all gradients are zero.
        several = len(pieces) > len(batch.segments)
        groups = TokenGroups(pieces, batch.segments.size, device) if several else None
        self._pass = _Pass(
            self.sketch.collect(len(pieces)),
            scale.to(device, torch.float32),
            groups,
            {
                "ids": identity,
                "rows": batch.first_row + pieces.row,
                "shares": pieces.sizes / own_tokens,
            },
            set(),
        )

    def _on_factor(self, name: str, factor: Factor) -> None:
        if self._pass is not None:
            self.sketch.add(self._pass.wide, name, factor, self._pass.groups)
            self._pass.seen.add(name)

    def _end_pass(self) -> None:
        """Keep the rows of the pass whose backward is over, until their step is."""
        done, self._pass = self._pass, None
        if done is None:
            return
        assert done.seen >= self.sketch.blocks.keys()
        rows = self.sketch.fold(done.wide) * done.scale[:, None]
        stored, norms = pack(rows, self.dtype)
        self._seen_rows.append((stored, {**done.values, "norms": norms}))

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        self._end_pass()
        step = position.step
        of_step = {"steps": step, "rates": lr, "intervals": self.intervals.of_step(step)}
        for stored, values in self._seen_rows:
            every = {name: np.full(len(stored), value) for name, value in of_step.items()}
            self.writer.append(stored, {**values, **every})
        self._seen_rows.clear()

    def before_save(self, position: Position) -> None:
        self.writer.commit()

    def seal(self) -> None:
        """Finish the files of all ranks; called by all ranks once the run is over."""
        self.writer.commit()
        self.close()
        self.ranks.barrier()
        if self.ranks.rank == 0:
            write_manifest(self.folder, self._facts())
        self.ranks.barrier()

    def _facts(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "dtype": self.dtype,
            "dimension": self.sketch.dimension,
            "projection": asdict(self.projection),
            "packing": self.stream.packing,
            "ends": list(self.intervals.ends),
            "tokens": self.stream.n_tokens,
        }

    def close(self) -> None:
        """Remove the hooks from the model; what was written stays."""
        self._open.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
