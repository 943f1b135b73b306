"""One score block: a pool shard's gradients against a query shard's, at one checkpoint."""

from __future__ import annotations

from hpcscale.pipeline.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.influence.blocks import score_block
    from hpcscale.influence.store import GradientShard
    from hpcscale.pipeline.measuring import CAPTURE, query_groups

    decides, queries = context.decides, None
    groups = query_groups(context)
    if decides["aggregate"] != "self":
        queries = GradientShard(context.verified_input("queries"))
        groups = groups.part(int(queries.units[0]), int(queries.units[-1]) + 1)
    normalise = decides["normalise"] == "cosine"
    if decides["way"] == "capture":
        from hpcscale.influence.capture import captured_block, read_capture

        outputs = captured_block(
            read_capture(context.verified_input("proxy") / CAPTURE),
            decides["checkpoint"],
            _captured_units(context),
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


def _captured_units(context: Context):  # type: ignore[no-untyped-def]
    """Ids of all units that could have been captured, uint64, in the order of their ordinals."""
    from hpcscale.data.store import TokenStore

    return TokenStore.open(context.input("pool") / "store").ids
