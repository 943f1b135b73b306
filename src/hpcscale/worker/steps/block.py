"""One score block: a pool shard's gradients against a query shard's, at one checkpoint."""

from __future__ import annotations

from hpcscale.influence import api
from hpcscale.influence.requests import (
    Aggregation,
    BlockRequest,
    CapturedBlockRequest,
    Measure,
    QuerySet,
)
from hpcscale.plan.specs import BlockSpec
from hpcscale.rundir.layout import CAPTURE, STORE
from hpcscale.worker.context import Context, StepResult


def run(context: Context[BlockSpec]) -> StepResult:
    spec = context.spec
    measure = Measure.of(spec.measure.decides())
    aggregation = Aggregation.of(spec.request.decides())
    queries = None
    if aggregation.has_queries:
        store, gradients = context.input("query") / STORE, context.verified_input("queries")
        queries = QuerySet(store, measure, gradients)
    if spec.request.way == "capture":
        block = api.score_captured(
            CapturedBlockRequest(
                aggregation,
                queries,
                captured=context.verified_input("proxy") / CAPTURE,
                interval=spec.checkpoint,
                pool=context.input("pool") / STORE,
                measure=measure,
            ),
            context.directory,
        )
    else:
        block = api.score(
            BlockRequest(aggregation, queries, context.verified_input("gradients"), context.key),
            context.directory,
            progress=lambda done, total: context.progress(done, total, "examples"),
        )
    return StepResult(block.files, {"columns": len(block.columns)})
