"""What one token adds to the gradient of each parameter, module by module.

For a linear map y = x W the gradient of a loss by W is sum_t x_t b_t^T, where b_t is the gradient
of the loss by y_t. A module's input and output gradient therefore hold all that the gradient of
any sum of its tokens is made of, and no weight gradient needs to be formed to use it. This
module alone knows which factors a module has; products, sketches and full gradients are made of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpcscale.errors import CheckpointError

#: Tensors by parameter name; a tied parameter is in it once.
Direction = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class OuterProduct:
    """A token's gradient is ``left`` times ``right``: a matrix parameter, [.., rows], [.., cols].

    ``left`` may be int64 [..] instead: row numbers, as of an embedding.
    """

    left: Tensor
    right: Tensor

    @property
    def by_row(self) -> bool:
        return not self.left.is_floating_point()


@dataclass(frozen=True, slots=True)
class Vector:
    """A token's gradient of a vector parameter itself, [.., size]."""

    value: Tensor


Factor = OuterProduct | Vector
Factors = Callable[[Any, Tensor, Tensor], dict[str, Factor]]
#: Called with a parameter's name and its factors, in the order of the backward pass.
FactorHook = Callable[[str, Factor], None]


def _conv1d(module: Any, x: Tensor, b: Tensor) -> dict[str, Factor]:
    """GPT-2's Conv1D: y = x W + c with W [in, out]."""
    return {"weight": OuterProduct(x, b), "bias": Vector(b)}


def _linear(module: Any, x: Tensor, b: Tensor) -> dict[str, Factor]:
    """y = x W^T + c with W [out, in]."""
    return {"weight": OuterProduct(b, x), "bias": Vector(b)}


def _embedding(module: Any, ids: Tensor, b: Tensor) -> dict[str, Factor]:
    """y = W[ids]."""
    return {"weight": OuterProduct(ids, b)}


def _layer_norm(module: Any, x: Tensor, b: Tensor) -> dict[str, Factor]:
    """y = n(x) * w + c."""
    normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    return {"weight": Vector(normal * b), "bias": Vector(b)}


def _rms_norm(module: Any, x: Tensor, b: Tensor) -> dict[str, Factor]:
    """y = n(x) * w, n dividing by the root of the mean square (Zhang and Sennrich 2019)."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if eps is None:
        eps = torch.finfo(x.dtype).eps
    return {"weight": Vector(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * b)}


_LINEAR = ("weight", "bias")
_WEIGHT = ("weight",)
#: By type name: the factors, and the parameters that they are of.
_KNOWN: dict[str, tuple[Factors, tuple[str, ...]]] = {
    "Conv1D": (_conv1d, _LINEAR),
    "Linear": (_linear, _LINEAR),
    "Embedding": (_embedding, _WEIGHT),
    "LayerNorm": (_layer_norm, _LINEAR),
    "RMSNorm": (_rms_norm, _WEIGHT),
    "LlamaRMSNorm": (_rms_norm, _WEIGHT),
    "MistralRMSNorm": (_rms_norm, _WEIGHT),
    "Qwen2RMSNorm": (_rms_norm, _WEIGHT),
    "Qwen3RMSNorm": (_rms_norm, _WEIGHT),
}


@dataclass(frozen=True)
class _Part:
    """A module with parameters, the name of each, and how its factors are had."""

    module: nn.Module
    names: dict[str, str]
    factors: Factors


def parts_of(model: nn.Module) -> list[_Part]:
    """Every module that holds trainable parameters.

    Raises CheckpointError for a module type or parameter that is not known, rather than leave it
    out.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    parts = []
    for path, module in model.named_modules():
        own = {key: names[id(p)] for key, p in module.named_parameters(recurse=False)}
        if not own:
            continue
        factors, covers = _KNOWN.get(type(module).__name__, (None, ()))
        if factors is None or set(own) - set(covers):
            raise CheckpointError(
                f"influence does not know the {', '.join(sorted(set(own) - set(covers)))} of "
                f"{path}, a {type(module).__name__}; it knows {', '.join(sorted(_KNOWN))}, and "
                "leaves no trainable parameter out"
            )
        parts.append(_Part(module, own, factors))
    return parts


@contextmanager
def factor_hooks(model: nn.Module, hook: FactorHook) -> Iterator[None]:
    """While open, each backward through ``model`` calls ``hook`` with every parameter's factors.

    Factors are float32 at least, of shape [B, T, ..], and belong to the loss that is propagated
    back. Position ids must be given to the model as [B, T]: one row for all would be summed over.
    """
    handles = [part.module.register_forward_hook(_tap(part, hook)) for part in parts_of(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tap(part: _Part, hook: FactorHook) -> Callable[..., Tensor]:
    def forward_hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen = inputs[0].detach()
        # Behind a frozen embedding nothing asks for a gradient yet.
        traced = output if output.requires_grad else output.detach().requires_grad_()

        def on_gradient(grad: Tensor) -> None:
            x = _wide(seen) if seen.is_floating_point() else seen
            factors = part.factors(module, x, _wide(grad))
            for key, name in part.names.items():
                hook(name, factors[key])

        traced.register_hook(on_gradient)  # type: ignore[no-untyped-call]
        return traced

    return forward_hook


def _wide(tensor: Tensor) -> Tensor:
    """Half precision would lose in the sums what it keeps in the terms."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights without gradients, so that a backward computes those of activations only."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
