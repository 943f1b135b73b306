"""Per-token inner products of a document's gradient with a direction, module by module.

For a linear map y = x W + c, the gradient of a loss is sum_t x_t b_t^T for W and sum_t b_t for c,
b_t being the gradient of the loss by y_t. Its inner product with a direction (V, v) is therefore
sum_t x_t V b_t + v b_t: one more matrix product a module, and never a weight gradient. Where
attention does not cross documents (packing ``isolate``), the terms of a document's tokens are its
own, so that a sum over its tokens is its inner product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hpcscale.errors import CheckpointError

Direction = dict[str, Tensor]
#: From a module's input and the gradient by its output, [..., in] and [..., out], to [...].
Contraction = Callable[[Tensor, Tensor], Tensor]


def contractions(model: nn.Module, direction: Direction) -> dict[str, Contraction]:
    """The contraction of each parameterised module with ``direction`` (by parameter name).

    A tied parameter stands in the direction once and is used by every module that holds it.
    Raises CheckpointError for a module type that is not known, rather than leave it out, and where
    a trainable parameter is not covered.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    covered: set[str] = set()
    found: dict[str, Contraction] = {}
    for path, module in model.named_modules():
        own = {key: names[id(p)] for key, p in module.named_parameters(recurse=False)}
        if not own:
            continue
        make = _MAKERS.get(type(module).__name__)
        if make is None:
            raise CheckpointError(
                f"influence does not know the module type {type(module).__name__} ({path}), which "
                f"holds {', '.join(own)}; known: {', '.join(sorted(_MAKERS))}"
            )
        found[path] = make(module, {key: direction[name] for key, name in own.items()})
        covered |= set(own.values())
    left_out = {name for name, p in model.named_parameters() if p.requires_grad} - covered
    if left_out:
        raise CheckpointError(f"influence does not cover the parameters {sorted(left_out)}")
    return found


def _conv1d(module: Any, part: Direction) -> Contraction:
    """GPT-2's Conv1D: y = x W + c with W [in, out]."""
    weight, bias = part["weight"], part["bias"]
    return lambda x, b: ((x @ weight + bias) * b).sum(-1)


def _linear(module: Any, part: Direction) -> Contraction:
    """y = x W^T + c with W [out, in]."""
    weight, bias = part["weight"], part.get("bias")
    if bias is None:
        return lambda x, b: ((x @ weight.T) * b).sum(-1)
    return lambda x, b: ((x @ weight.T + bias) * b).sum(-1)


def _layer_norm(module: Any, part: Direction) -> Contraction:
    """y = n(x) * w + c, n the normalised input."""
    weight, bias = part["weight"], part["bias"]

    def contract(x: Tensor, b: Tensor) -> Tensor:
        normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        return ((normal * weight + bias) * b).sum(-1)

    return contract


def _embedding(module: Any, part: Direction) -> Contraction:
    """y = W[ids]: the direction's rows of those ids."""
    weight = part["weight"]
    return lambda ids, b: (weight[ids] * b).sum(-1)


_MAKERS: dict[str, Callable[[Any, Direction], Contraction]] = {
    "Conv1D": _conv1d,
    "Linear": _linear,
    "LayerNorm": _layer_norm,
    "Embedding": _embedding,
}


@contextmanager
def collecting(
    model: nn.Module, wanted: dict[str, Contraction], into: list[Tensor]
) -> Iterator[None]:
    """While open, each backward adds its modules' per-token terms, [..., T], to ``into``."""
    handles = []

    def listen(contract: Contraction) -> Callable[..., Tensor]:
        def forward_hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen = inputs[0].detach()
            # Behind a frozen embedding nothing asks for a gradient yet.
            heard = output if output.requires_grad else output.detach().requires_grad_()
            heard.register_hook(lambda grad: into.append(contract(seen, grad)))  # type: ignore[no-untyped-call]
            return heard

        return forward_hook

    for path, module in model.named_modules():
        if path in wanted:
            handles.append(module.register_forward_hook(listen(wanted[path])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights without gradients, so that a backward computes those of activations alone."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
