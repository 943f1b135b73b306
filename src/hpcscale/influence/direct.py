"""Exact influence on an aggregated query loss, one forward and backward a batch of documents.

influence(i) = sum over checkpoints c of eta_c <g_c(i), g_c(Q)>, g(i) the gradient of document i's
mean token loss over all trainable parameters, g(Q) the weighted mean of the queries' (Pruthi et al.
2020, "TracIn", arXiv 2002.08484). Positive: a step on i lowers the loss on Q.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpcscale.data.packing import Batch, PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.influence.contract import Direction, collecting, contractions, frozen
from hpcscale.model.forward import token_nll

Floats = npt.NDArray[np.float64]


def query_gradient(
    model: nn.Module,
    store: TokenStore,
    positions: npt.NDArray[np.int64],
    *,
    sequence_length: int,
    micro_batch: int,
    device: torch.device,
    weights: Floats | None = None,
) -> Direction:
    """The gradient of sum_q w_q * (mean token loss of q), w summing to 1; by parameter name."""
    model.eval()
    model.zero_grad(set_to_none=True)
    share = np.full(len(positions), 1 / len(positions)) if weights is None else weights
    share = share / share.sum()
    for _, loss in _losses(model, store, positions, share, sequence_length, micro_batch, device):
        loss.sum().backward()
    gradient = {
        name: parameter.grad.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return gradient


def direct_scores(
    model: nn.Module,
    store: TokenStore,
    positions: npt.NDArray[np.int64],
    direction: Direction,
    *,
    sequence_length: int,
    micro_batch: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """<g(i), direction> of each document, float64 [n].

    Documents are packed but never attend to each other; one longer than ``sequence_length`` is
    scored in pieces that together weigh as one document.
    """
    model.eval()
    wanted = contractions(model, direction)
    scores = np.zeros(len(positions))
    ones = np.ones(len(positions))
    terms: list[Tensor] = []
    done = 0
    with frozen(model), collecting(model, wanted, terms):
        for batch, loss in _losses(
            model, store, positions, ones, sequence_length, micro_batch, device
        ):
            loss.sum().backward()
            per_token = torch.stack([term.double() for term in terms]).sum(0).cpu().numpy()
            terms.clear()
            real = batch.segments >= 0
            np.add.at(scores, batch.segments[real], per_token[real])
            done += len(batch.inputs)
            if progress:
                progress(done, -(-int(store.lengths[positions].sum()) // sequence_length))
    return scores


def _losses(  # type: ignore[no-untyped-def]
    model: nn.Module,
    store: TokenStore,
    positions: npt.NDArray[np.int64],
    share: Floats,
    sequence_length: int,
    micro_batch: int,
    device: torch.device,
):
    """Batches with their nll, each token weighted by its document's share over its length."""
    stream = PackedStream(store, positions, None, sequence_length, "isolate")
    lengths = store.lengths[positions]
    for first in range(0, stream.n_rows, micro_batch):
        batch = stream.rows(first, min(first + micro_batch, stream.n_rows))
        nll = token_nll(
            model,
            *(
                torch.from_numpy(part).to(device)
                for part in (batch.inputs, batch.targets, batch.segments, batch.positions)
            ),
        )
        yield batch, nll * torch.from_numpy(_token_weights(batch, share, lengths)).to(nll)


def _token_weights(batch: Batch, share: Floats, lengths: npt.NDArray[np.int64]) -> Floats:
    owner = np.maximum(batch.segments, 0)
    weights: Floats = np.where(batch.segments >= 0, share[owner] / lengths[owner], 0.0)
    return weights
