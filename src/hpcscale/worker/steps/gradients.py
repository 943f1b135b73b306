"""The sketched gradients of one shard of a store at one checkpoint of the proxy run."""

from __future__ import annotations

from hpcscale.influence import api
from hpcscale.influence.inputs import checkpoint_of
from hpcscale.influence.requests import DumpRequest, Measure
from hpcscale.plan.specs import GradientsSpec
from hpcscale.rundir.layout import SNAPSHOTS, STORE
from hpcscale.train.distributed import Ranks, peak_memory
from hpcscale.worker.context import Context, StepResult


def run(context: Context[GradientsSpec]) -> StepResult:
    spec, snapshots = context.spec, context.input("proxy") / SNAPSHOTS
    request = DumpRequest(
        store=context.input("store") / STORE,
        checkpoint=checkpoint_of(snapshots, spec.checkpoint, spec.power, spec.epsilon),
        measure=Measure.of(spec.measure.decides()),
        shard=spec.shard,
        key=context.key,
        batch_tokens=spec.batch_tokens,
    )
    ranks = Ranks.from_environment()
    resumed = any(context.directory.glob("rows-*.json"))
    dumped = api.dump(
        request,
        context.directory,
        ranks=ranks,
        progress=lambda done, total: context.progress(done, total, "tokens"),
    )
    facts: dict[str, float | str] = {
        "device": ranks.device.type,
        "dimension": dumped.dimension,
        "units": dumped.examples,
        "world_size": ranks.world_size,
        "peak_memory_bytes": peak_memory(ranks),
    }
    if not resumed:
        facts["tokens_per_second"] = dumped.tokens / dumped.seconds
    return StepResult(dumped.files, facts)
