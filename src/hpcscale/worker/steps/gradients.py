"""The sketched gradients of one shard of a store at one checkpoint of the proxy run."""

from __future__ import annotations

import time

from hpcscale.worker.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.data.shards import shard_range
    from hpcscale.influence.dump import DumpOptions, dump_examples
    from hpcscale.influence.sketch import Projection, Sketch
    from hpcscale.train.distributed import Ranks, peak_memory
    from hpcscale.worker.influence_inputs import loaded_snapshot, units_of

    decides = context.decides
    ranks = Ranks.from_environment()
    units = units_of(context.input("store"), decides)
    model, scale = loaded_snapshot(context, ranks, decides["power"])
    projection = dict(decides["projection"])
    sketch = Sketch(model, Projection(**projection), ranks.device)
    index, count = decides["shard"]
    bounds = shard_range(index, count, units.count)
    went_on = any(context.directory.glob("rows-*.json"))
    started = time.monotonic()
    outputs = dump_examples(
        model,
        units,
        bounds,
        sketch,
        context.directory,
        DumpOptions(
            decides["dtype"], decides["precision"], context.key, context.params["batch_tokens"]
        ),
        ranks=ranks,
        scale=scale,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    facts: dict[str, float | str] = {
        "device": ranks.device.type,
        "dimension": sketch.dimension,
        "units": bounds[1] - bounds[0],
        "world_size": ranks.world_size,
        "peak_memory_bytes": peak_memory(ranks),
    }
    if not went_on:
        tokens = int(units.tokens[slice(*bounds)].sum())
        facts["tokens_per_second"] = tokens / (time.monotonic() - started)
    return StepResult(outputs, facts)
