"""The sketched gradients of one shard of a store at one checkpoint of the proxy run."""

from __future__ import annotations

from hpcscale.pipeline.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.influence.dump import DumpOptions, dump_units
    from hpcscale.influence.rows import shard_range
    from hpcscale.influence.sketch import Projection, Sketch
    from hpcscale.pipeline.measuring import loaded_snapshot, units_of
    from hpcscale.train.distributed import Ranks

    decides = context.decides
    ranks = Ranks.from_environment()
    units = units_of(context.input("store"), decides)
    model, scale = loaded_snapshot(context, ranks, decides["power"])
    projection = dict(decides["projection"])
    sketch = Sketch(model, Projection(**projection), ranks.device)
    index, count = decides["shard"]
    outputs = dump_units(
        model,
        units,
        shard_range(index, count, units.count),
        sketch,
        context.directory,
        DumpOptions(
            decides["dtype"], decides["precision"], context.key, context.params["batch_tokens"]
        ),
        ranks=ranks,
        scale=scale,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    return StepResult(outputs, {"dimension": sketch.dimension, "world_size": ranks.world_size})
