"""The proxy run: the base model is trained on a random part of the pool, and snapshots are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.influence.capture import Capture
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.inputs import proxy_stream
from hpcscale.influence.requests import Measure
from hpcscale.influence.snapshots import Snapshots
from hpcscale.model.build import load_model
from hpcscale.plan.specs import ProxySpec
from hpcscale.rundir.layout import CAPTURE, MODEL, SNAPSHOTS, STORE
from hpcscale.train.distributed import Ranks
from hpcscale.train.watch import Watcher, without_skips
from hpcscale.units import format_count
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.steps.training import train_and_save


def run(context: Context[ProxySpec]) -> StepResult:
    spec, config = context.spec, context.spec.training.train
    store = TokenStore.open(context.input("pool") / STORE)
    if spec.tokens > store.n_tokens:
        raise DataError(
            f"influence.proxy.tokens asks for {format_count(spec.tokens)} tokens, the pool has "
            f"{format_count(store.n_tokens)}; lower it, or raise data.pool.tokens"
        )
    measure = Measure.of(spec.sequences.decides() | {"seed": spec.seed})
    stream, order = proxy_stream(store, measure, spec.tokens)
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / MODEL).to(ranks.device)
    schedule = CheckpointSchedule.of(config, stream.n_tokens, spec.checkpoints)
    folder = context.directory / SNAPSHOTS
    watchers: list[Watcher] = [Snapshots(folder, model, config, schedule, ranks)]
    capture = _capture(context, stream, store.ids[order], schedule, ranks)
    if capture is not None:
        watchers.append(capture)
    with context.deferring():
        result = train_and_save(
            context,
            model,
            stream,
            ranks,
            {},
            config=without_skips(config),
            watchers=watchers,
            save=False,
        )
    if capture is not None:
        capture.seal()
    ranks.barrier()
    return replace(result, outputs=[*result.outputs, *_written(context)])


def _capture(
    context: Context[ProxySpec],
    stream: PackedStream,
    ids: npt.NDArray[np.uint64],
    schedule: CheckpointSchedule,
    ranks: Ranks,
) -> Capture | None:
    """The watcher that writes the run's own gradients; None where no scores need them."""
    if context.spec.capture is None:
        return None
    measure = Measure.of(context.spec.capture.decides())
    return Capture(
        context.directory / CAPTURE,
        stream,
        ids,
        measure.projection,
        schedule,
        ranks,
        unit=measure.unit,
        dtype=measure.dtype,
    )


def _written(context: Context[ProxySpec]) -> list[str]:
    """The files of snapshots and captured gradients."""
    folders = [context.directory / name for name in (SNAPSHOTS, CAPTURE)]
    written = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()]
    return [str(path.relative_to(context.directory)) for path in written]
