"""All score blocks of one request as a table with one row a document, in pool order."""

from __future__ import annotations

import numpy as np

from hpcscale.influence import api
from hpcscale.influence.requests import Measure, MergeRequest, ScoredCheckpoint
from hpcscale.influence.snapshots import read_snapshots
from hpcscale.plan.specs import MergeInfluenceSpec
from hpcscale.rundir.layout import CAPTURE, SCORES, SNAPSHOTS, STORE
from hpcscale.worker.context import Context, StepResult


def run(context: Context[MergeInfluenceSpec]) -> StepResult:
    spec, proxy = context.spec, context.input("proxy")
    captured, kind = spec.request.way == "capture", spec.request.aggregate
    snapshots = read_snapshots(proxy / SNAPSHOTS)
    request = MergeRequest(
        # In the order in which the plan listed them.
        blocks=context.verified_inputs("shards"),
        checkpoints=[ScoredCheckpoint(found.folder.name, found.eta) for found in snapshots],
        query_shards=spec.query_shards,
        kind=kind,
        pool=context.input("pool") / STORE,
        measure=Measure.of(spec.measure.decides()),
        queries=context.input("query") / STORE if kind == "max" else None,
        captured=proxy / CAPTURE if captured else None,
    )
    scores = api.merge(request, context.directory / SCORES)
    known = scores[np.isfinite(scores)]
    quartiles = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(known) else []
    facts = {"documents": len(scores), "scored": len(known), "quartiles": quartiles}
    return StepResult([SCORES], facts)
