"""The loss of a model on a token store: over all of it, per domain, and per document."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpcscale.data.packing import PackedStream, Packing
from hpcscale.data.store import TokenStore
from hpcscale.data.windows import batch_windows, document_windows, gather_windows
from hpcscale.model.forward import token_nll
from hpcscale.model.limits import check_reads
from hpcscale.model.probes import head_is_last, selected_logits
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import DTYPES
from hpcscale.train.prefetch import batch_tensors

#: Tokens of one scoring batch: enough to fill the cores, and a few MB of logits.
SCORE_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class EvalResult:
    """loss: nats a token, the sum of nll over the sum of tokens. bits_per_byte: of UTF-8 text."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    documents: int
    domains: dict[str, dict[str, Any]]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    store: TokenStore,
    *,
    sequence_length: int,
    packing: Packing,
    micro_batch: int,
    ranks: Ranks,
    precision: str = "fp32",
) -> EvalResult:
    """Measure every token of ``store`` once, in the store's order, packed as in training.

    Rows go to ranks in turn; sums are float64 per document, so ranks and micro-batch change the
    result by float32 rounding of the forward pass only. Called by all ranks, same result on each.
    Raises HpcscaleError where the model cannot read such rows or tokens.
    """
    check_reads(model, store, sequence_length)
    model.eval()
    documents = np.arange(store.n_documents)
    stream = PackedStream(store, documents, store.n_tokens, sequence_length, packing)
    nll = np.zeros(store.n_documents)
    for first in range(ranks.rank * micro_batch, stream.n_rows, micro_batch * ranks.world_size):
        batch = stream.rows(first, min(first + micro_batch, stream.n_rows))
        with _autocast(ranks.device, precision):
            losses = token_nll(model, *batch_tensors(batch, stream, ranks))
        real = batch.segments >= 0
        values = losses.double().cpu().numpy()[real]
        np.add.at(nll, batch.segments[real], values)
    return _result(store, ranks.all_sum(nll))


def _result(store: TokenStore, nll: npt.NDArray[np.float64]) -> EvalResult:
    parts = {}
    for code, name in enumerate(store.domain_names):
        mine = np.asarray(store.domains) == code
        if mine.any():
            parts[name] = _summary(store, nll, mine)
    whole = _summary(store, nll, np.ones(store.n_documents, dtype=bool))
    return EvalResult(**whole, domains=parts)


def _summary(
    store: TokenStore, nll: npt.NDArray[np.float64], mine: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    total, tokens = float(nll[mine].sum()), int(store.lengths[mine].sum())
    size = int(np.asarray(store.bytes)[mine].sum(dtype=np.int64))
    loss = total / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": total / math.log(2) / size if size else math.nan,
        "tokens": tokens,
        "bytes": size,
        "documents": int(mine.sum()),
    }


@torch.no_grad()
def document_nll(
    model: nn.Module,
    store: TokenStore,
    positions: npt.NDArray[np.int64],
    *,
    sequence_length: int,
    device: torch.device,
    precision: str = "fp32",
    batch_tokens: int = SCORE_BATCH_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Sum of nll (float64 [n], nats) and tokens (int64 [n]) of each document alone.

    The first token is predicted from end-of-text; a document longer than ``sequence_length`` is cut
    into windows that do not see one another. Windows of similar length share a batch of up to
    ``batch_tokens`` tokens, and the head computes only real tokens, so padding costs almost
    nothing. Raises HpcscaleError where the model cannot read such rows or tokens.
    """
    check_reads(model, store, sequence_length)
    model.eval()
    windows = document_windows(store, positions, sequence_length)
    total = int(windows[:, 2].sum())
    nll = np.zeros(len(positions))
    done = 0
    for group in batch_windows(windows, batch_tokens):
        inputs, targets = gather_windows(store, positions, group)
        with _autocast(device, precision):
            losses = _real_nll(
                model, torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
            )
        owner = np.repeat(group[:, 0], group[:, 2])
        np.add.at(nll, owner, losses.double().cpu().numpy())
        done += int(group[:, 2].sum())
        if progress:
            progress(done, total)
    return nll, store.lengths[positions].astype(np.int64)


def _real_nll(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Nll of the real targets, row by row, shape [number of real targets]."""
    real = targets != -100
    if not head_is_last(model):
        return token_nll(model, inputs, targets)[real]
    # Right padding comes after every real token, so causal attention never sees it.
    logits = selected_logits(model, inputs, real)
    return functional.cross_entropy(logits.float(), targets[real], reduction="none")


def _autocast(device: torch.device, precision: str) -> Any:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
