"""The proxy run: the base model goes on, on a random part of the pool, and leaves checkpoints."""

from __future__ import annotations

from dataclasses import replace

from hpcscale.config.train import TrainConfig
from hpcscale.errors import DataError
from hpcscale.units import format_count
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.influence_inputs import CAPTURE, SNAPSHOTS, proxy_stream
from hpcscale.worker.steps.training import train_and_save


def run(context: Context) -> StepResult:
    from hpcscale.data.store import TokenStore
    from hpcscale.influence.capture import Capture
    from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
    from hpcscale.influence.sketch import Projection
    from hpcscale.influence.snapshots import Snapshots
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks
    from hpcscale.train.watch import Watcher, Watchers

    decides = context.decides
    config = TrainConfig(**context.params["train"])
    store = TokenStore.open(context.input("pool") / "store")
    tokens = decides["tokens"]
    if tokens > store.n_tokens:
        raise DataError(
            f"influence.proxy.tokens asks for {format_count(tokens)} tokens, the pool has "
            f"{format_count(store.n_tokens)}; lower it, or raise data.pool.tokens"
        )
    stream, order = proxy_stream(context.input("pool"), decides, tokens)
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / "model").to(ranks.device)
    intervals = CheckpointSchedule.of(config, stream.n_tokens, decides["checkpoints"])
    watchers: list[Watcher] = [
        Snapshots(context.directory / SNAPSHOTS, model, config, intervals, ranks)
    ]
    capture = None
    if decides["capture"]:
        asked = decides["capture"]
        capture = Capture(
            context.directory / CAPTURE,
            stream,
            store.ids[order],
            Projection(**asked["projection"]),
            intervals,
            ranks,
            unit=asked["unit"],
            dtype=asked["dtype"],
        )
        watchers.append(capture)
    with context.deferring():
        result = train_and_save(
            context, model, stream, decides["seed"], ranks, {}, Watchers(watchers)
        )
    if capture is not None:
        capture.seal()
    ranks.barrier()
    folders = [context.directory / name for name in (SNAPSHOTS, CAPTURE)]
    written = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()]
    outputs = [str(path.relative_to(context.directory)) for path in written]
    return replace(result, outputs=[*result.outputs, *outputs])
