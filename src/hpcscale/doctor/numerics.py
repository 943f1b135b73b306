"""Whether training computes what it should on this machine: a few small runs, each with a bound.

All in float32 and in one process, so that a difference is a mistake and not rounding.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcscale.config.train import TrainConfig
from hpcscale.doctor.finding import Finding
from hpcscale.doctor.reference_run import LENGTH, ROWS, Curve, ReferenceRun
from hpcscale.model.build import load_model, save_model
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import EngineSetup
from hpcscale.train.engines import make_engine
from hpcscale.train.prefetch import batch_tensors

#: The largest relative difference of losses and gradient norms that rounding explains.
ROUNDING = 1e-5
#: The largest difference of one token's loss, in nats, that rounding explains.
TOKEN = 1e-4


def examine(source: str | None = None) -> Iterator[Finding]:
    """Findings as they are made. Raises HpcscaleError where ``source`` cannot be loaded."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="hpcscale-doctor-") as folder:
        subject = ReferenceRun(source, Path(folder), Ranks(device=device))
        reference = subject.train("reference")
        yield initial_loss(subject)
        yield tied_weights(subject, reference)
        yield overfit(subject)
        yield determinism(subject, reference)
        yield accumulation(subject, reference)
        yield isolation(subject)
        yield engine_equality(subject, reference)


@torch.no_grad()
def initial_loss(subject: ReferenceRun) -> Finding:
    """The loss of a random model is ln V; that of a trained model on text is lower."""
    stream, entropy = subject.stream(), math.log(subject.vocabulary)
    batch = stream.rows(0, stream.n_rows)
    nll = token_nll(subject.model().eval(), *batch_tensors(batch, stream, subject.ranks))
    loss = float(nll.sum()) / batch.n_tokens
    measured = f"{loss:.3f} nats"
    if subject.source is None:
        return Finding(
            "initial loss",
            abs(loss - entropy) <= 0.1,
            measured,
            f"ln V = {entropy:.3f}, to 0.1",
            "weights are drawn too wide or the loss is summed wrongly: see model/build.py, "
            "model/forward.py",
        )
    if not subject.reads_text:
        return Finding("initial loss", None, "the model's directory has no tokenizer")
    return Finding(
        "initial loss",
        loss < entropy,
        measured,
        f"below ln V = {entropy:.3f}",
        "the model predicts English worse than chance: check that model and tokenizer belong "
        "together",
    )


def tied_weights(subject: ReferenceRun, trained: Curve) -> Finding:
    """Embedding and head are one tensor where the model says so, and all come back from disk."""
    out = subject.folder / "exported"
    save_model(trained.model, out, trained.weights)
    again = load_model(out).to(subject.ranks.device)
    config: Any = trained.model.config
    wanted = bool(config.tie_word_embeddings)
    tied = [_is_tied(model) for model in (trained.model, again)]
    before, after = dict(trained.model.named_parameters()), dict(again.named_parameters())
    same = before.keys() == after.keys()
    moved = [name for name in before if not same or not torch.equal(before[name], after[name])]
    words = ["tied" if is_tied else "untied" for is_tied in tied]
    return Finding(
        "tied weights",
        tied == [wanted, wanted] and not moved,
        f"{words[0]}, {words[1]} after a reload, {len(moved)} of {len(before)} tensors changed",
        f"{'tied' if wanted else 'untied'} twice, 0 changed",
        "export and reload lose weights: check tie_word_embeddings in config.json, and the "
        "versions of transformers and safetensors",
    )


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings().weight
    return bool(head.data_ptr() == model.get_input_embeddings().weight.data_ptr())


def overfit(subject: ReferenceRun, limit: float = 0.1, most: int = 150) -> Finding:
    """Training on one batch again and again brings its loss to almost 0."""
    config = TrainConfig(lr=3e-3 if subject.source is None else 3e-4, weight_decay=0, zero=0)
    engine = make_engine("torch", EngineSetup(subject.model(), config, subject.ranks, "fp32"))
    stream = subject.stream()
    batch = batch_tensors(stream.rows(0, 2), stream, subject.ranks)
    loss, steps = math.inf, 0
    while loss > limit and steps < most:
        with engine.forward_pass(last=True):
            mean = token_nll(engine.model, *batch).sum() / (2 * LENGTH)
        engine.backward(mean)
        engine.step(config.lr)
        loss, steps = mean.item(), steps + 1
    return Finding(
        "overfit one batch",
        loss <= limit,
        f"{loss:.3f} nats after {steps} steps",
        f"{limit} nats within {most}",
        "gradients or the optimizer are wrong: see train/engine.py, train/engine_torch.py",
    )


def determinism(subject: ReferenceRun, reference: Curve) -> Finding:
    """Two equal runs agree bit for bit on CPUs; GPU kernels may add in another order each time."""
    again = subject.train("again")
    same = sum(a == b for a, b in zip(reference.steps, again.steps, strict=True))
    pairs = zip(reference.model.parameters(), again.model.parameters(), strict=True)
    moved, off = sum(not torch.equal(a, b) for a, b in pairs), again.off(reference)
    exact = subject.ranks.device.type == "cpu"
    return Finding(
        "determinism",
        off == moved == 0 if exact else off <= ROUNDING,
        f"{same} of {len(reference.steps)} steps bit-identical, {moved} tensors differ",
        "all, 0" if exact else f"losses off by {ROUNDING:.0e}, here {off:.1e}",
        "resumed runs will differ: see docs/determinism.md for kernels and threads",
    )


def accumulation(subject: ReferenceRun, reference: Curve) -> Finding:
    worst = max(
        subject.train(f"micro-{size}", micro_batch=size).off(reference) for size in (1, ROWS // 2)
    )
    return Finding(
        "accumulation",
        worst <= ROUNDING,
        f"off by {worst:.1e} in 4 and 2 passes",
        f"{ROUNDING:.0e}",
        "micro-batches are weighted wrongly: see train/loop.py",
    )


@torch.no_grad()
def isolation(subject: ReferenceRun) -> Finding:
    """Documents in packed rows have the same losses as alone."""
    stream, model = subject.stream("isolate"), subject.model().eval()
    batch = stream.rows(0, stream.n_rows)
    packed = token_nll(model, *batch_tensors(batch, stream, subject.ranks))
    worst, pieces = 0.0, 0
    for row, segments in enumerate(batch.segments):
        for segment in np.unique(segments[segments >= 0]):
            (at,) = np.nonzero(segments == segment)
            inputs, targets = (
                torch.from_numpy(part[row, at])[None].to(subject.ranks.device)
                for part in (batch.inputs, batch.targets)
            )
            alone = token_nll(model, inputs, targets)[0]
            difference = packed[row, torch.from_numpy(at).to(packed.device)] - alone
            worst, pieces = max(worst, float(difference.abs().max())), pieces + 1
    return Finding(
        "packing isolate",
        worst <= TOKEN,
        f"off by {worst:.1e} nats a token, {pieces} documents in {stream.n_rows} rows",
        f"{TOKEN:.0e}",
        "write packing: concat, and report it: see model/attention.py",
    )


def engine_equality(subject: ReferenceRun, reference: Curve) -> Finding:
    """Run this check last, since DeepSpeed changes the process that it runs in."""
    stages = (0, 1, 2, 3) if subject.source is None else (1,)
    worst = {
        stage: subject.train(f"zero-{stage}", "deepspeed", zero=stage).off(reference)
        for stage in stages
    }
    listed = ", ".join(f"{off:.1e} at zero {stage}" for stage, off in worst.items())
    return Finding(
        "engine equality",
        max(worst.values()) <= ROUNDING,
        f"off by {listed}",
        f"{ROUNDING:.0e}",
        "write train.engine: torch, and check DeepSpeed's version against constraints.txt",
    )
