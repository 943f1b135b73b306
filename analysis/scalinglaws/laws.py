"""Scaling laws. Each is linear in its amplitudes once its shape parameters are given.

A law names its shape parameters with starting grids, and returns for given shapes the fixed part
of the loss and the columns that its amplitudes multiply. D is in training tokens, losses are in
nats a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A parameter that enters non-linearly; its logarithm is fitted, within the bounds."""

    name: str
    unit: str
    low: float
    high: float


class Law(ABC):
    """L(D) = offset(D) + sum over amplitudes a_k >= 0 of a_k * column_k(D; shapes)."""

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    amplitudes: ClassVar[tuple[str, ...]]
    #: Distinct budgets below which the parameters cannot be told apart.
    min_budgets: ClassVar[int] = 3

    @abstractmethod
    def shapes(self, tokens: Floats) -> tuple[Shape, ...]:
        """The shape parameters, with bounds that suit the tokens of the data."""

    @abstractmethod
    def columns(self, shapes: Floats, tokens: Floats) -> tuple[Floats, Floats]:
        """Offset [S, n] and columns [S, n, k] for shape values [S, p] at tokens [n]."""

    def report(self, values: dict[str, float]) -> dict[str, float]:
        """Fitted amplitudes and shapes as the parameters that the formula names."""
        return values


class Power(Law):
    """The power law with a floor."""

    name = "power"
    formula = "L(D) = E + B D^-beta"
    source = "Kaplan et al. 2020 (arXiv 2001.08361); Hoffmann et al. 2022 (arXiv 2203.15556)"
    amplitudes = ("E", "B'")

    def shapes(self, tokens: Floats) -> tuple[Shape, ...]:
        self._unit = float(np.exp(np.log(tokens).mean()))
        return (Shape("beta", "1", 1e-3, 5.0),)

    def columns(self, shapes: Floats, tokens: Floats) -> tuple[Floats, Floats]:
        # In units of the mean budget both columns are near 1, and the solve is well conditioned.
        falling = np.exp(-shapes[:, :1] * np.log(tokens / self._unit))
        ones = np.ones_like(falling)
        return np.zeros_like(falling), np.stack([ones, falling], axis=-1)

    def report(self, values: dict[str, float]) -> dict[str, float]:
        """B' is the reducible loss at the mean budget; B that at one token."""
        scale = np.exp(values["beta"] * np.log(self._unit))
        return {"E": values["E"], "B": values["B'"] * scale, "beta": values["beta"]}


class Rectified(Law):
    """The rectified law: flat at the base model's loss, then a power law.

    L0 is measured: the eval loss of the base model.
    """

    name = "rectified"
    formula = "L(D) = E + (L0 - E) / (1 + (D / D0)^beta)"
    source = "Lin et al. 2024, rectified scaling law for fine-tuning (arXiv 2402.02314)"
    amplitudes = ("A",)

    def __init__(self, base_loss: float) -> None:
        self.base_loss = base_loss

    def shapes(self, tokens: Floats) -> tuple[Shape, ...]:
        return (
            Shape("D0", "tokens", float(tokens.min()) * 1e-4, float(tokens.max()) * 1e4),
            Shape("beta", "1", 1e-2, 5.0),
        )

    def columns(self, shapes: Floats, tokens: Floats) -> tuple[Floats, Floats]:
        power = np.clip(shapes[:, 1:2] * np.log(tokens / shapes[:, :1]), -700, 700)
        gained = 1 / (1 + np.exp(-power))
        return np.full_like(gained, self.base_loss), -gained[..., None]

    def report(self, values: dict[str, float]) -> dict[str, float]:
        return {
            "E": self.base_loss - values["A"],
            "L0": self.base_loss,
            "D0": values["D0"],
            "beta": values["beta"],
        }


#: By the name that the command line and fits.csv use.
LAWS: dict[str, type[Law]] = {"rectified": Rectified, "power": Power}
