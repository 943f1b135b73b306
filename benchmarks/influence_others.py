"""Other ways to TracIn that benchmarks/influence.py compares with. All return the same scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

States = list[dict[str, Tensor]]


def examples(units: Any) -> tuple[Tensor, Tensor]:
    """(inputs, targets), int64 [N, T], of documents of one length."""
    rows = [units.store.tokens(int(i)).astype(np.int64) for i in units.positions]
    targets = torch.from_numpy(np.stack(rows))
    first = torch.full((len(targets), 1), units.store.eot_id)
    return torch.cat([first, targets[:, :-1]], 1), targets


def gradients(model: nn.Module, units: Any) -> list[list[Tensor]]:
    """One backward a document, full gradients kept."""
    kept = []
    for inputs, targets in zip(*examples(units), strict=True):
        model.zero_grad(set_to_none=True)
        functional.cross_entropy(model(input_ids=inputs[None]).logits[0], targets).backward()
        kept.append([p.grad.detach() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return kept


def pairwise_dots(
    model: nn.Module, states: States, rates: Any, pool: Any, queries: Any
) -> np.ndarray:  # type: ignore[type-arg]
    """The mean query's gradient dotted with one document's after the other."""
    total = np.zeros(pool.count)
    for rate, state in zip(rates, states, strict=True):
        model.load_state_dict(state)
        rows = gradients(model, queries)
        mean = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).mean(0)
        for i, row in enumerate(gradients(model, pool)):
            total[i] += rate * float(torch.cat([g.flatten() for g in row]) @ mean)
    return total


def baseline_practice(
    model: nn.Module, states: States, rates: Any, pool: Any, queries: Any
) -> np.ndarray:  # type: ignore[type-arg]
    """Every document's gradient dotted with every query's, one pair after the other."""
    total = np.zeros((pool.count, queries.count))
    for rate, state in zip(rates, states, strict=True):
        model.load_state_dict(state)
        columns = [torch.cat([g.flatten() for g in row]) for row in gradients(model, queries)]
        for i, row in enumerate(gradients(model, pool)):
            mine = torch.cat([g.flatten() for g in row])
            total[i] += [rate * float(mine @ column) for column in columns]
    return total


class Logits(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids).logits
        return logits


def _loader(units: Any, batch: int) -> Any:
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*examples(units)), batch_size=batch
    )


def captum_scores(
    model: nn.Module, states: States, rates: Any, pool: Any, queries: Any, batch: int
) -> Callable[[], Any] | None:
    """TracInCP with the queries summed beforehand (`aggregate`), its quickest way."""
    try:
        from captum.influence import TracInCP
    except ImportError:
        return None

    def load(wrapped: nn.Module, name: str) -> float:
        wrapped.model.load_state_dict(states[int(name)])  # type: ignore[union-attr]
        return float(rates[int(name)])

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        nll = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nll.view(targets.shape).mean(1)

    names = [str(i) for i in range(len(states))]
    tracin = TracInCP(Logits(model), _loader(pool, batch), names, load, loss_fn=loss)
    return lambda: (
        tracin.influence(_loader(queries, batch), aggregate=True)[0].numpy() / queries.count
    )


def dattri_scores(
    model: nn.Module, states: States, rates: Any, pool: Any, queries: Any, batch: int
) -> Callable[[], Any] | None:
    """TracInAttributor with no projection: `projector_kwargs=None` alone means its default."""
    try:
        from dattri.algorithm.tracin import TracInAttributor
        from dattri.task import AttributionTask
    except ImportError:
        return None
    wrapped = Logits(model)

    def loss(parameters: Any, data: Any) -> Tensor:
        inputs, targets = data
        logits = torch.func.functional_call(wrapped, parameters, inputs[None])
        return functional.cross_entropy(logits[0], targets)

    checkpoints = [{f"model.{name}": value for name, value in state.items()} for state in states]
    task = AttributionTask(loss, wrapped, checkpoints)
    attributor = TracInAttributor(task, torch.tensor(rates), normalized_grad=False)
    attributor.projector_kwargs = None

    def scores() -> Any:
        found = attributor.attribute(_loader(pool, batch), _loader(queries, batch))
        return found.numpy().mean(1)

    return scores
