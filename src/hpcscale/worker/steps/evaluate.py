"""The loss of a model on exactly the tokens of the eval set.

The base model is probed before, so that no sweep starts from a loss that means something else.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from hpcscale.atomic import write_json
from hpcscale.errors import CheckpointError
from hpcscale.worker.context import Context, StepResult

RECORD = "evaluation.json"
PROBES = "probes.json"


def run(context: Context) -> StepResult:
    from hpcscale.data.store import TokenStore
    from hpcscale.evaluate.loss import evaluate
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks

    decides, params = context.decides, context.params
    is_base = params["cell"] is None
    if is_base:
        _probe(context)
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
    outputs = [RECORD, *([PROBES] if is_base else [])]
    return StepResult(outputs, {"loss": result.loss, "tokens": result.tokens})


def _probe(context: Context) -> None:
    """Try the model, and keep what was found beside its loss. Raises CheckpointError where cells
    of it would be wrong."""
    from functools import partial

    from hpcscale.doctor.model import Patient, examine
    from hpcscale.model.build import load_model

    decides = context.decides
    load = partial(load_model, context.input("model") / "model")
    tokenizer = context.run_dir / context.params["tokenizer"] / "tokenizer"
    patient = Patient(
        load(),
        load,
        decides["sequence_length"],
        decides["packing"],
        tokenizer if tokenizer.is_dir() else None,
    )
    findings = list(examine(patient))
    if context.rank == 0:
        write_json(context.directory / PROBES, [asdict(finding) for finding in findings])
    if failed := [finding for finding in findings if finding.failed]:
        raise CheckpointError(
            "the base model does not compute what a sweep needs: "
            + "; ".join(f"{one.name}: {one.measured}: {one.remedy}" for one in failed)
        )
