"""One score block without stored gradients: a pool shard along the summed query gradient."""

from __future__ import annotations

from hpcscale.worker.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.data.shards import shard_range
    from hpcscale.influence.direct import direct_block, query_directions
    from hpcscale.influence.dump import DumpOptions
    from hpcscale.train.distributed import Ranks
    from hpcscale.worker.influence_inputs import loaded_snapshot, query_groups, units_of

    decides = context.decides
    ranks = Ranks.from_environment()
    pool = units_of(context.input("pool"), decides)
    own = decides["aggregate"] == "self"
    queries = pool if own else units_of(context.input("query"), decides)
    adam = decides["preconditioner"] == "adam"
    model, scale = loaded_snapshot(context, ranks, 0.5 if adam else 0)
    options = DumpOptions(
        precision=decides["precision"],
        key=context.key,
        batch_tokens=context.params["batch_tokens"],
    )
    groups = query_groups(context)
    normalise = decides["normalise"] == "cosine"
    along = query_directions(model, queries, groups, normalise, scale, options, ranks.device)
    index, count = decides["shard"]
    outputs = direct_block(
        model,
        pool,
        shard_range(index, count, pool.count),
        along,
        context.directory,
        options,
        ranks=ranks,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    return StepResult(outputs, {"columns": len(groups.names), "device": ranks.device.type})
