"""The loss of a model on exactly the tokens of the eval set.

The base model is probed first, so that a sweep does not start from a meaningless loss.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial

from hpcscale.atomic import write_json
from hpcscale.data.store import TokenStore
from hpcscale.doctor.model import Patient, examine
from hpcscale.errors import CheckpointError
from hpcscale.evaluate.loss import evaluate
from hpcscale.model.build import load_model
from hpcscale.plan.specs import EvaluateSpec
from hpcscale.rundir.layout import EVALUATION, MODEL, PROBES, STORE, TOKENIZER
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context, StepResult


def run(context: Context[EvaluateSpec]) -> StepResult:
    spec = context.spec
    is_base = spec.cell is None
    if is_base:
        _probe(context)
    store = TokenStore.open(context.input("store") / STORE)
    started = time.monotonic()
    ranks = Ranks.from_environment()
    model = load_model(context.input("model") / MODEL).to(ranks.device)
    result = evaluate(
        model,
        store,
        sequence_length=spec.sequences.sequence_length,
        packing=spec.sequences.packing,
        micro_batch=spec.micro_batch,
        ranks=ranks,
        precision=spec.sequences.precision,
    )
    cell = None if spec.cell is None else spec.cell.model_dump()
    record = {**asdict(result), "cell": cell, "seconds": time.monotonic() - started}
    if context.rank == 0:
        write_json(context.directory / EVALUATION, record)
    outputs = [EVALUATION, *([PROBES] if is_base else [])]
    return StepResult(outputs, {"loss": result.loss, "tokens": result.tokens})


def _probe(context: Context[EvaluateSpec]) -> None:
    """Probe the base model, and write the findings beside its loss. Raises CheckpointError where
    results of its cells would be wrong."""
    spec = context.spec
    load = partial(load_model, context.input("model") / MODEL)
    folder = context.run_dir / spec.tokenizer / TOKENIZER if spec.tokenizer else None
    patient = Patient(
        load(),
        load,
        spec.sequences.sequence_length,
        spec.sequences.packing,
        folder if folder is not None and folder.is_dir() else None,
    )
    findings = list(examine(patient))
    if context.rank == 0:
        write_json(context.directory / PROBES, [asdict(finding) for finding in findings])
    if failed := [finding for finding in findings if finding.failed]:
        raise CheckpointError(
            "the base model does not compute what a sweep needs: "
            + "; ".join(f"{one.name}: {one.measured}: {one.remedy}" for one in failed)
        )
