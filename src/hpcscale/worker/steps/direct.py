"""One score block without stored gradients: a pool shard along the summed query gradient."""

from __future__ import annotations

from hpcscale.influence import api
from hpcscale.influence.inputs import checkpoint_of
from hpcscale.influence.requests import Aggregation, DirectRequest, Measure, QuerySet
from hpcscale.plan.specs import DirectSpec
from hpcscale.rundir.layout import SNAPSHOTS, STORE
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult


def run(context: Context[DirectSpec]) -> StepResult:
    spec, snapshots = context.spec, context.input("proxy") / SNAPSHOTS
    measure = Measure.of(spec.measure.decides())
    aggregation = Aggregation.of(spec.request.decides())
    power = 0.5 if spec.request.preconditioner == "adam" else 0.0
    queries = None
    if aggregation.has_queries:
        queries = QuerySet(context.input("query") / STORE, measure)
    request = DirectRequest(
        aggregation,
        queries,
        pool=context.input("pool") / STORE,
        checkpoint=checkpoint_of(snapshots, spec.checkpoint, power, spec.epsilon),
        measure=measure,
        shard=spec.shard,
        key=context.key,
        batch_tokens=spec.batch_tokens,
    )
    ranks = Ranks.from_environment()
    block = api.score_direct(
        request,
        context.directory,
        ranks=ranks,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    return StepResult(block.files, {"columns": len(block.columns), "device": ranks.device.type})
