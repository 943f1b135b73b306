"""The inputs of a plan: its grid, the effect to find, the noise, the reference's curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from scalinglaws.errors import AnalysisError
from scalinglaws.estimation import fit_law
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats, Power

#: Seed sd in nats, at the upper end of published reruns: 0.0005 (OLMo, C4), 0.001 to 0.002
#: (datablations, 2.8B parameters).
TYPICAL_SD = 0.002
#: Above its floor at the smallest budget, in nats, and exponent: a rough curve of GPT-2's size.
REDUCIBLE, EXPONENT = 0.45, 0.3


@dataclass(frozen=True)
class Noise:
    """The noise of a loss. sd: over seeds, nats. correlation: of two methods at the same seed.

    degrees: of freedom behind the sd; None where it was not measured.
    """

    sd: float = TYPICAL_SD
    correlation: float = 0.0
    degrees: int | None = None

    def __post_init__(self) -> None:
        _must(np.isfinite(self.sd) and self.sd > 0, "noise", self.sd, "nats above zero")
        _must(-1 <= self.correlation < 1, "correlation", self.correlation, "from -1 to below 1")

    @property
    def of_difference(self) -> float:
        """Standard deviation of one paired difference, nats."""
        return float(self.sd * np.sqrt(2 * (1 - self.correlation)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The interval of a measured sd, in nats, by the chi-square distribution."""
        if self.degrees is None:
            return self.sd, self.sd
        tail = (1 - confidence) / 2
        low, high = (
            np.sqrt(self.degrees / special.chdtri(self.degrees, p)) for p in (tail, 1 - tail)
        )
        return float(self.sd * low), float(self.sd * high)


@dataclass(frozen=True)
class Design:
    """A planned grid: budgets in tokens; seeds a cell; methods, one of which is the reference."""

    budgets: tuple[float, ...]
    seeds: int = 3
    methods: int = 2
    confidence: float = 0.95
    power: float = 0.8

    def __post_init__(self) -> None:
        _must(len(self.budgets) > 0, "budgets", self.budgets, "one or more counts of tokens")
        for budget in self.budgets:
            _must(np.isfinite(budget) and budget > 0, "budget", budget, "tokens above zero")
        _must(len(set(self.budgets)) == len(self.budgets), "budgets", self.budgets, "all different")
        _must(self.seeds >= 1, "seeds", self.seeds, "1 or more")
        _must(self.methods >= 1, "methods", self.methods, "1 or more")
        _must(0 < self.confidence < 1, "confidence", self.confidence, "between 0 and 1")
        _must(
            1 - self.confidence < self.power < 1,
            "power",
            self.power,
            "below 1 and above 1 - confidence",
        )

    @property
    def tokens(self) -> Floats:
        """Budgets [b], ascending."""
        return np.array(sorted(self.budgets), float)

    @property
    def decades(self) -> float:
        return float(np.log10(self.tokens[-1] / self.tokens[0]))

    @property
    def level(self) -> float:
        return (1 - self.confidence) / max(self.methods - 1, 1)


@dataclass(frozen=True)
class Effect:
    """A difference from the reference: ``nats`` at every budget, or a token ``multiplier``."""

    nats: float | None = None
    multiplier: float | None = None

    def __post_init__(self) -> None:
        if (self.nats is None) == (self.multiplier is None):
            raise AnalysisError("give the effect either in nats or as a token multiplier")
        if self.nats is not None:
            _must(np.isfinite(self.nats) and self.nats > 0, "effect", self.nats, "nats above zero")
        if self.multiplier is not None:
            good = np.isfinite(self.multiplier) and self.multiplier > 1
            _must(good, "multiplier", self.multiplier, "above 1, such as 1.2")

    def __str__(self) -> str:
        return f"{self.nats:g} nats" if self.nats else f"{self.multiplier:g} x tokens"

    def at(self, tokens: Floats, curve: Fit) -> Floats:
        """The effect in nats [b] at each budget; the reference's curve converts a multiplier."""
        if self.nats is not None:
            return np.full(len(tokens), self.nats)
        assert self.multiplier is not None
        return curve.predict(tokens) - curve.predict(tokens * self.multiplier)


def _must(good: bool | np.bool_, name: str, value: object, wanted: str) -> None:
    if not good:
        raise AnalysisError(f"{name} is {value}; it must be {wanted}")


def assumed_curve(
    budgets: Sequence[float], reducible: float = REDUCIBLE, exponent: float = EXPONENT
) -> Fit:
    """The power law that is ``reducible`` nats above its floor at the smallest budget.

    The floor has no influence on any comparison.
    """
    _must(np.isfinite(reducible) and reducible > 0, "reducible loss", reducible, "nats above zero")
    _must(0.01 <= exponent <= 3, "exponent", exponent, "from 0.01 to 3")
    low, high = min(budgets), max(budgets)
    tokens = np.geomspace(low / 2, high * 2, 8)
    return fit_law(Power(), tokens, 3 + reducible * (tokens / low) ** -exponent, intervals=False)
