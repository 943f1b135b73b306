"""The loss of a model on exactly the tokens of the eval set."""

from __future__ import annotations

import time
from dataclasses import asdict

from hpcscale.atomic import write_json
from hpcscale.pipeline.context import Context, StepResult

RECORD = "evaluation.json"


def run(context: Context) -> StepResult:
    from hpcscale.data.store import TokenStore
    from hpcscale.evaluate.loss import evaluate
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks

    decides, params = context.decides, context.params
    store = TokenStore.open(context.input("store") / "store")
    started = time.monotonic()
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / "model").to(ranks.device)
    result = evaluate(
        model,
        store,
        sequence_length=decides["sequence_length"],
        packing=decides["packing"],
        micro_batch=params["micro_batch"],
        ranks=ranks,
        precision=decides["precision"],
    )
    record = {**asdict(result), "cell": params["cell"], "seconds": time.monotonic() - started}
    if context.rank == 0:
        write_json(context.directory / RECORD, record)
    return StepResult([RECORD], {"loss": result.loss, "tokens": result.tokens})
