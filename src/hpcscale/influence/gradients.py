"""Gradients of examples: sketched, or along a direction, or summed over queries.

Influence of example i on a query q (TracIn, Pruthi et al. 2020, arXiv 2002.08484):

    influence(i, q) = sum over checkpoints c of eta_c <g_c(i), g_c(q)>

g is the gradient of the mean token loss over all trainable parameters. Positive: a step on i lowers
the loss on q.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hpcscale.influence.examples import BATCH_TOKENS, ExampleBatch, Examples, batch_loss
from hpcscale.influence.factors import Direction, Factor, OuterProduct, factor_hooks, frozen
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.types import Floats, Ints, Progress

#: Bytes of full gradients that are held at a time.
_FULL = 1 << 29
#: Bytes of the wide rows of one batch.
_WIDE = 1 << 29


def example_features(
    model: nn.Module,
    examples: Examples,
    which: Ints,
    sketch: Sketch,
    *,
    precision: str = "fp32",
    scale: Direction | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Sketched gradients of the examples ``which``, [len(which), sketch.dimension].

    One forward and backward of activations a batch. ``scale`` multiplies each parameter's gradient
    before it is sketched, as Adam's preconditioner does; gradients of single rows are formed then.
    """
    model.eval()
    features = torch.zeros(len(which), sketch.dimension, device=sketch.device, dtype=sketch.dtype)
    wide: list[Tensor] = []

    def collect(name: str, factor: Factor) -> None:
        if scale is None:
            sketch.add(wide[0], name, factor)
        else:
            sketch.add_scaled(wide[0], name, factor, scale[name])

    rows = max(1, _WIDE // (4 * sketch.width))
    with frozen(model), factor_hooks(model, collect):
        for batch in examples.batches(which, batch_tokens, rows):
            wide[:] = [sketch.collect(len(batch.example))]
            torch.autograd.backward(batch_loss(model, batch, sketch.device, precision))
            example = torch.from_numpy(batch.example).to(sketch.device)
            features.index_add_(0, example, sketch.fold(wide[0]))
    return features


def mean_gradients(
    model: nn.Module,
    examples: Examples,
    weights: Floats,
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Direction]:
    """The full gradient of sum_q w[k, q] * (mean token loss of q) for each row k of ``weights``."""
    model.eval()
    directions = []
    for row in weights:
        model.zero_grad(set_to_none=True)
        which = np.flatnonzero(row)
        for batch in examples.batches(which, batch_tokens):
            share = torch.from_numpy(row[which][batch.example])
            torch.autograd.backward(batch_loss(model, batch, device, precision, share))
        directions.append(
            {
                name: (torch.zeros_like(p) if p.grad is None else p.grad.detach().clone())
                for name, p in model.named_parameters()
                if p.requires_grad
            }
        )
    model.zero_grad(set_to_none=True)
    return directions


def direct_scores(
    model: nn.Module,
    examples: Examples,
    directions: Sequence[Direction],
    *,
    device: torch.device,
    which: Ints | None = None,
    precision: str = "fp32",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Floats:
    """<g(i), direction k> of the examples ``which`` (all), float64 [examples, len(directions)].

    One forward, one backward with frozen weights and one more product a parameter; exact, on all
    parameters, and no gradient of an example is formed.
    """
    model.eval()
    chosen = np.arange(examples.count) if which is None else which
    scores = np.zeros((len(chosen), len(directions)))
    terms: list[Tensor] = []

    def collect(name: str, factor: Factor) -> None:
        if name in directions[0]:
            terms.append(torch.stack([_along(factor, d[name]) for d in directions], 1))

    done = 0
    with frozen(model), factor_hooks(model, collect):
        for batch in examples.batches(chosen, batch_tokens):
            terms.clear()
            torch.autograd.backward(batch_loss(model, batch, device, precision))
            np.add.at(scores, batch.example, torch.stack(terms).sum(0).cpu().numpy())
            done += int((batch.share > 0).sum())
            if progress:
                progress(done, int(examples.tokens[chosen].sum()))
    return scores


def _along(factor: Factor, direction: Tensor) -> Tensor:
    """The inner product of each row's gradient with a direction, [B]; summed in float64."""
    if not isinstance(factor, OuterProduct):
        return (factor.value @ direction.to(factor.value.dtype)).double().sum(1)
    direction = direction.to(factor.right.dtype)
    seen = direction[factor.left] if factor.by_row else factor.left @ direction
    return (seen * factor.right).sum(-1).double().sum(1)


def full_scores(
    model: nn.Module,
    examples: Examples,
    directions: Sequence[Direction],
    *,
    device: torch.device,
    which: Ints | None = None,
    precision: str = "fp32",
    scale: Direction | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> tuple[Floats, Floats]:
    """<s g(i), direction k>, float64 [n, K], and the squared norms |s g(i)|^2, float64 [n].

    Of the n examples ``which`` (all). Forms full gradients, some at a time, as norms need.
    """
    whole = Sketch(model, Projection(None, None), device, next(model.parameters()).dtype)
    along = torch.zeros(len(directions), whole.dimension, device=device, dtype=whole.dtype)
    for row, direction in zip(along, directions, strict=True):
        row.copy_(whole.of(direction))
    chosen = np.arange(examples.count) if which is None else which
    scores, squares = np.zeros((len(chosen), len(directions))), np.zeros(len(chosen))
    size = max(1, _FULL // (4 * whole.dimension))
    for first in range(0, len(chosen), size):
        part = slice(first, first + size)
        gradients = example_features(
            model,
            examples,
            chosen[part],
            whole,
            precision=precision,
            scale=scale,
            batch_tokens=batch_tokens,
        )
        scores[part] = inner_products(gradients, along)
        squares[part] = _squares(gradients)
        if progress:
            done = examples.tokens[chosen[: part.stop]]
            progress(int(done.sum()), int(examples.tokens[chosen].sum()))
    return scores, squares


def inner_products(rows: Tensor, others: Tensor) -> Floats:
    """rows @ others.T, float64 [n, m]: float32 products of short stretches, summed in float64.

    One sum over millions of float32 terms would lose digits.
    """
    total = torch.zeros(len(rows), len(others), dtype=torch.float64, device=rows.device)
    for left, right in _stretches(rows, others):
        total += left @ right.T
    values: Floats = total.cpu().numpy()
    return values


def _stretches(rows: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = 1 << 14
    for first in range(0, rows.shape[1], step):
        yield rows[:, first : first + step], others[:, first : first + step]


def _squares(rows: Tensor) -> Floats:
    parts = [left.square().sum(1).double() for left, _ in _stretches(rows, rows)]
    values: Floats = torch.stack(parts).sum(0).cpu().numpy()
    return values


__all__ = ["ExampleBatch", "direct_scores", "example_features", "full_scores", "mean_gradients"]
