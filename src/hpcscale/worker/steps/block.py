"""One score block: a pool shard's gradients against a query shard's, at one checkpoint."""

from __future__ import annotations

from hpcscale.worker.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.influence.blocks import score_block
    from hpcscale.influence.gradient_shards import GradientShard
    from hpcscale.worker.influence_inputs import CAPTURE, captured_units, query_groups

    decides, queries = context.decides, None
    groups = query_groups(context)
    if decides["aggregate"] != "self":
        queries = GradientShard(context.verified_input("queries"))
        # More shards than queries leave some empty.
        first = int(queries.units[0]) if len(queries) else 0
        groups = groups.part(first, first + len(queries))
    normalise = decides["normalise"] == "cosine"
    if decides["way"] == "capture":
        from hpcscale.influence.capture_blocks import captured_block
        from hpcscale.influence.capture_store import read_capture

        captured = read_capture(context.verified_input("proxy") / CAPTURE)
        ordinals, units = captured_units(context.input("pool"), decides, captured)
        outputs = captured_block(
            captured,
            decides["checkpoint"],
            ordinals,
            units,
            queries,
            groups,
            normalise,
            context.directory,
        )
        return StepResult(outputs, {"columns": len(groups.names)})
    outputs = score_block(
        GradientShard(context.verified_input("gradients")),
        queries,
        groups,
        normalise,
        context.directory,
        key=context.key,
        progress=lambda done, total: context.progress(done, total, "units"),
    )
    return StepResult(outputs, {"columns": len(groups.names)})
