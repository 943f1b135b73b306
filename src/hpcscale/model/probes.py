"""How a model behaves, found by trying it on a few tokens rather than by a list of names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hpcscale.errors import CheckpointError
from hpcscale.model.limits import text_config
from hpcscale.model.sample import sample_rows

#: Differences of logits, relative to the largest logit, that rounding explains.
ROUNDING = 1e-4
_head_is_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@contextmanager
def trial(model: nn.Module, training: bool = False) -> Iterator[None]:
    """A context for trial passes: in float32, in any surroundings, and without side effects."""
    was = model.training
    model.train(training)
    try:
        with torch.no_grad(), torch.autocast(_device(model), enabled=False):
            yield
    finally:
        model.train(was)


def rounding(model: nn.Module) -> float:
    """The difference that rounding explains; GPUs may multiply float32 numbers in fewer bits."""
    return ROUNDING if _device(model) == "cpu" else 100 * ROUNDING


def _device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def logits_of(model: nn.Module, rows: Tensor, **extra: Any) -> Tensor:
    """Float32 [B, T, V] of token ids [B, T], in evaluation mode."""
    with trial(model):
        found: Tensor = model(input_ids=rows, use_cache=False, **extra).logits.float()
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; NaN stays NaN."""
    return float((found - expected).abs().max() / expected.abs().max())


def future_influence(model: nn.Module) -> float:
    """How much the last token of a row changes the logits before it, relative to the largest."""
    rows = sample_rows(model)
    size = int(text_config(model).vocab_size)
    changed = rows.clone()
    changed[:, -1] = (rows[:, -1] + size // 2) % size
    # In one batch, since some models compute another batch size in another order.
    before, after = logits_of(model, torch.cat([rows, changed])).chunk(2)
    return difference(after[:, :-1], before[:, :-1])


def check_causal(name: str, model: nn.Module) -> None:
    """Raises CheckpointError where a logit depends on a later token, or is not finite."""
    moved = future_influence(model)
    if not moved <= ROUNDING:
        kind = model.config.model_type  # type: ignore[union-attr]
        raise CheckpointError(
            f"the model {name} computes logits that are not finite; its weights are damaged"
            if moved != moved
            else f"the model {name} sees the future: the last token of a row changes the logits "
            f"before it by {moved:.1e} of the largest, so its loss means nothing; "
            f"give a causal language model (for `{kind}`, see `is_decoder` in its config.json)"
        )


def head_is_last(model: nn.Module) -> bool:
    """Whether ``selected_logits`` gives this model's own logits; tried once per model."""
    if model not in _head_is_last:
        rows = sample_rows(model)
        chosen = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        chosen[0, 1::2], chosen[1, :5] = True, True
        expected = logits_of(model, rows)[chosen]
        try:
            with trial(model):
                found = selected_logits(model, rows, chosen).float()
            same = found.shape == expected.shape
            _head_is_last[model] = same and difference(found, expected) <= rounding(model)
        except torch.OutOfMemoryError:  # which says nothing of the model
            raise
        except Exception:  # whatever a model does with a head of another shape
            _head_is_last[model] = False
    return _head_is_last[model]


def selected_logits(model: nn.Module, rows: Tensor, chosen: Tensor) -> Tensor:
    """Logits [n, V] at the n places of ``rows`` [B, T] that the mask ``chosen`` names.

    The head computes only these, and what the model does to logits after its head (a scale, a soft
    cap) it does to these. Correct only where ``head_is_last``.
    """
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]

    def select(_head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0][chosen].unsqueeze(0), *given[1:])

    hook = head.register_forward_pre_hook(select)
    try:
        found: Tensor = model(input_ids=rows, use_cache=False).logits
    finally:
        hook.remove()
    return found[0]
