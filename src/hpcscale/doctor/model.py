"""Probes of whether a model computes what a sweep relies on, each with its bound.

`hpcscale doctor model` runs them on any model, and the base stage of a sweep on its base model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hpcscale.data.end_of_text import end_of_text
from hpcscale.data.packing import Packing
from hpcscale.data.tokenizer import Tokenizer, fetch_tokenizer, load_tokenizer
from hpcscale.doctor.finding import Finding
from hpcscale.errors import HpcscaleError
from hpcscale.model.build import load_model
from hpcscale.model.dropout import training_noise
from hpcscale.model.flops import model_flops_per_token
from hpcscale.model.isolation import isolation_error, way_to_isolate
from hpcscale.model.limits import check_length, position_limit, text_config
from hpcscale.model.probes import ROUNDING, future_influence, head_is_last, logits_of
from hpcscale.model.sample import sample_rows

#: Tokens of the row that FLOPs are counted on.
_COUNTED_LENGTH = 64
_USUAL_LENGTH = 1024


@dataclass
class Patient:
    """A loaded model, where it came from, and how a sweep would read rows with it.

    tokenizer: a directory with a tokenizer.json, or None where there is none.
    """

    model: nn.Module
    load: Callable[[], nn.Module]
    sequence_length: int
    packing: Packing | None
    tokenizer: Path | None

    @property
    def config(self) -> Any:
        return text_config(self.model)


def examine_source(
    source: str,
    revision: str | None,
    sequence_length: int | None,
    packing: Packing | None,
    reading: str | None,
) -> Iterator[Finding]:
    """Findings on the model and tokenizer of a directory or hub id, as they are made.

    reading: as ``tokenizer.reading`` of a sweep file.
    """
    load = partial(load_model, source, revision)
    try:
        model = load()
    except HpcscaleError as error:
        yield Finding("loading", False, "the model cannot be used", remedy=str(error))
        return
    limit = position_limit(text_config(model)) or _USUAL_LENGTH
    length = sequence_length or min(limit, _USUAL_LENGTH)
    with tempfile.TemporaryDirectory(prefix="hpcscale-doctor-") as folder:
        out = Path(folder) / "tokenizer"
        tokenizer, finding = _fetched_tokenizer(source, revision, reading, out)
        yield from examine(Patient(model, load, length, packing, tokenizer), finding)


def examine(patient: Patient, tokenizer_ids: Finding | None = None) -> Iterator[Finding]:
    """Findings on a loaded model. ``tokenizer_ids``: an earlier finding on its tokenizer."""
    yield weights(patient)
    yield causality(patient)
    yield repeatability(patient)
    yield head(patient)
    yield isolation(patient)
    yield positions(patient)
    if tokenizer_ids is not None:
        yield tokenizer_ids
    yield vocabulary(patient)
    yield separator(patient)
    yield flops(patient)


def weights(patient: Patient) -> Finding:
    """Every parameter is in the checkpoint: a second load gives the same bits."""
    again = patient.load().to(next(patient.model.parameters()).device)
    first, second = patient.model.state_dict(), again.state_dict()
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    rows = sample_rows(patient.model)
    same = torch.equal(logits_of(patient.model, rows), logits_of(again, rows))
    more = "" if same or differ else ", though the logits do"
    return Finding(
        "weights",
        not differ and same,
        f"{len(differ)} of {len(first)} tensors differ in a second load{more}",
        "0",
        f"values that the checkpoint does not give: {', '.join(differ[:3])}; save the model again "
        "with save_pretrained(DIRECTORY)",
    )


def causality(patient: Patient) -> Finding:
    moved = future_influence(patient.model)
    return Finding(
        "causality",
        moved <= ROUNDING,
        f"the last token moves earlier logits by {moved:.1e} of the largest",
        f"{ROUNDING:.0e}",
        "it sees later tokens, so its loss has no meaning: use a causal language model",
    )


def repeatability(patient: Patient) -> Finding:
    noise = training_noise(patient.model)
    return Finding(
        "training passes",
        noise <= 1e-6,
        f"two differ by {noise:.1e} of the largest logit",
        "1e-06",
        "a random part that no setting switches off: use another model",
    )


def head(patient: Patient) -> Finding:
    same = head_is_last(patient.model)
    gives = "gives" if same else "does not give"
    return Finding(
        "head short cut",
        same,
        f"the head, applied to some tokens only, {gives} the model's own logits",
        "",
        "document scores compute all logits instead, which is slower but correct",
        fatal=False,
    )


def isolation(patient: Patient) -> Finding:
    kind, way = patient.config.model_type, way_to_isolate(patient.model)
    remedy = f"models of type `{kind}` cannot keep documents apart: write `packing: concat`"
    if way is None:
        return Finding(
            "packing isolate",
            False,
            "documents in a packed row have other logits than alone",
            "",
            remedy,
            fatal=patient.packing == "isolate",
        )
    means = {"positions": "position ids that restart", "mask": "a mask"}[way]
    off = isolation_error(patient.model, way)
    return Finding(
        "packing isolate",
        off <= ROUNDING,
        f"documents in a packed row, kept apart by {means}, are off by {off:.1e} of the largest "
        "logit",
        f"{ROUNDING:.0e}",
        remedy,
    )


def positions(patient: Patient) -> Finding:
    length, limit = patient.sequence_length, position_limit(patient.config)
    measured = f"rows of {length} tokens are read; the config allows {limit or 'any length'}"
    try:
        check_length("the model", patient.config, length)
        rows = sample_rows(patient.model, 1, length)
        finite = bool(logits_of(patient.model, rows).isfinite().all())
    except (HpcscaleError, IndexError) as error:
        return Finding(
            "positions",
            False,
            f"does not read rows of {length} tokens: {error}",
            remedy="write a smaller data.sequence_length",
        )
    remedy = "the logits are not finite: the weights are damaged"
    return Finding("positions", finite, measured, remedy=remedy)


def _fetched_tokenizer(
    source: str, revision: str | None, reading: str | None, out: Path
) -> tuple[Path | None, Finding | None]:
    """The fetched copy of the tokenizer beside a model; fetching compares its token ids."""
    name, where = "tokenizer ids", Path(source).expanduser()
    if where.is_dir() and not any((where / f).is_file() for f in ("tokenizer.json", "vocab.json")):
        return None, Finding(name, None, "the model's directory has no tokenizer")
    try:
        fetch_tokenizer(source, revision, out, reading)
    except HpcscaleError as error:
        return None, Finding(name, False, "the tokenizer cannot be used", remedy=str(error))
    if reading == "file":
        return out, Finding(name, None, "`reading: file` was chosen, so that they are not compared")
    return out, Finding(name, True, "equal those of transformers")


def vocabulary(patient: Patient) -> Finding:
    """A tokenizer may have more tokens than the model has embeddings, if no text gives them."""
    name = "vocabulary"
    if patient.tokenizer is None:
        return Finding(name, None, "there is no tokenizer to compare with")
    tokenizer = load_tokenizer(patient.tokenizer)
    embedding: Any = patient.model.get_input_embeddings()  # type: ignore[operator]
    rows, known = len(embedding.weight), tokenizer.vocab_size
    counts = f"{known} tokens, {rows} embeddings"
    if known <= rows:
        return Finding(name, True, counts)
    past = _tokens_of_text(tokenizer, rows)
    return Finding(
        name,
        tokenizer.eot_id < rows and not past,
        f"{counts}; text gives {len(past)} tokens without an embedding",
        "0",
        f"{', '.join(past[:3])}: the model belongs to another tokenizer",
    )


def _tokens_of_text(tokenizer: Tokenizer, first: int) -> list[str]:
    """The tokens with id ``first`` or above that text can give: all that are not special."""
    added = tokenizer.rust.get_added_tokens_decoder()
    ids = range(first, tokenizer.vocab_size)
    plain = [i for i in ids if not (i in added and added[i].special)]
    return [repr(tokenizer.rust.id_to_token(i)) for i in plain if tokenizer.rust.id_to_token(i)]


def separator(patient: Patient) -> Finding:
    name = "separator"
    if patient.tokenizer is None:
        return Finding(name, None, "there is no tokenizer that names an end of text")
    ends = end_of_text(patient.tokenizer)
    wanted = patient.config.eos_token_id
    agrees = wanted is None or ends.id in (wanted if isinstance(wanted, list) else [wanted])
    more = "" if agrees else f"; the model's config.json says token {wanted}"
    return Finding(
        name,
        agrees,
        f"texts end with {ends}{more}",
        "",
        "check which of the two the model was trained with, and correct the other file",
        fatal=False,
    )


@torch.no_grad()
def flops(patient: Patient) -> Finding:
    """FLOPs as plans, MFU and figures use them, next to those counted while the model runs."""
    rows = sample_rows(patient.model, 1, _COUNTED_LENGTH)
    # The counter knows attention and experts only where they are written as products of matrices.
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        _experts_one_by_one(patient.model),
    ):
        logits_of(patient.model, rows)
    counted = 3 * counter.get_total_flops() / rows.shape[1]  # backward is twice forward
    measured = f"{counted:.3g} a token, forward and backward, at {rows.shape[1]} tokens a row"
    found = model_flops_per_token(patient.model, rows.shape[1])
    if found is None:
        return Finding(
            "FLOPs",
            False,
            f"{measured}; they do not follow from the shapes of its weights",
            remedy="MFU and the compute of its trainings stay unknown; losses are correct",
            fatal=False,
        )
    ratio = found / counted
    return Finding(
        "FLOPs",
        0.98 <= ratio <= 1.02,
        f"{measured}; its weights give {ratio:.2f} times that",
        "0.98 to 1.02",
        "the plan's GPU-hours, MFU and the compute axis of figures are wrong by this factor; "
        "losses are correct",
        fatal=False,
    )


@contextmanager
def _experts_one_by_one(model: Any) -> Iterator[None]:
    """Experts in a loop, where Transformers offers several implementations."""
    usual = getattr(model.config, "_experts_implementation", None)
    if usual in (None, "eager"):
        yield
        return
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(usual)
