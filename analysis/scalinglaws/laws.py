"""Scaling laws. Each is linear in its amplitudes once its shape parameters are given.

A law is a class of a few lines: names, formula, source, bounds of the shapes, and the terms. D is
in training tokens, N in parameters, losses in nats a token.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from scalinglaws.errors import AnalysisError

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64] | Mask
Terms = tuple[Floats | float, dict[str, Floats | float]]


@dataclass(frozen=True)
class Points:
    """Where losses were measured, each [n]: training tokens, parameters, unique tokens."""

    tokens: Floats
    model_size: Floats | None = None
    unique_tokens: Floats | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: Any) -> Points:
        return replace(self, **{name: values[chosen] for name, values in self.given()})

    def at(self, tokens: Floats) -> Points:
        """Other token budgets of the first point's model, on data that never repeat."""
        size = None if self.model_size is None else np.full(len(tokens), self.model_size[0])
        return Points(tokens, size, None if self.unique_tokens is None else tokens)

    def given(self) -> list[tuple[str, Floats]]:
        """Names and values of the variables that are given."""
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, values) for name, values in pairs if values is not None]


@dataclass(frozen=True)
class Shape:
    """A parameter that enters non-linearly; its logarithm is fitted, within the bounds."""

    name: str
    unit: str
    low: float
    high: float


class Law(ABC):
    """L = offset + sum over amplitudes a_k >= 0 of a_k times term k.

    ``offset_in`` and ``efficiency_in`` name the parameters by which two selection methods differ
    when one only shifts the floor, or only makes tokens worth more.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    amplitudes: tuple[str, ...]
    #: Distinct budgets below which the parameters cannot be told apart.
    min_budgets: int = 3
    #: Variables that the law needs besides the tokens.
    needs: ClassVar[tuple[str, ...]] = ()
    offset_in: ClassVar[tuple[str, ...]] = ("E",)
    efficiency_in: ClassVar[tuple[str, ...]] = ("B",)

    @abstractmethod
    def shapes(self, x: Points) -> tuple[Shape, ...]:
        """The shape parameters, with bounds that suit the data."""

    @abstractmethod
    def terms(self, x: Points, *shapes: Floats) -> Terms:
        """Offset and terms at ``x`` [n] for shapes [S, 1] or [S, n], in the order of ``shapes``."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Amplitudes, then shapes: everything that is fitted."""
        one = np.ones(1)
        return (*self.amplitudes, *(shape.name for shape in self.shapes(Points(one, one, one))))

    @property
    def measured(self) -> dict[str, float]:
        """Parameters that were given, not fitted."""
        return {}


def _exponent(name: str) -> Shape:
    return Shape(name, "1", 1e-3, 5.0)


def _span(name: str, tokens: Floats, below: float = 1e-4, above: float = 1e4) -> Shape:
    return Shape(name, "tokens", float(tokens.min()) * below, float(tokens.max()) * above)


class Power(Law):
    """The power law with a floor."""

    name = "power"
    formula = "L(D) = E + B D^-beta"
    source = "Kaplan et al. 2020 (arXiv 2001.08361); Hoffmann et al. 2022 (arXiv 2203.15556)"
    amplitudes = ("E", "B")

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (_exponent("beta"),)

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        (beta,) = shapes
        return 0.0, {"E": 1.0, "B": x.tokens**-beta}


class Rectified(Law):
    """From the base model's loss L0 down to E, halfway at D0; L0 is measured or fitted."""

    name = "rectified"
    formula = "L(D) = E + (L0 - E) / (1 + (D / D0)^beta)"
    source = "Lin et al. 2024, rectified scaling law for fine-tuning (arXiv 2402.02314)"
    amplitudes: tuple[str, ...] = ("E",)
    efficiency_in = ("D0",)

    def __init__(self, base_loss: float | None = None) -> None:
        self.base_loss = base_loss
        if base_loss is None:
            self.amplitudes = ("E", "L0")
            self.min_budgets = 4

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (_span("D0", x.tokens), Shape("beta", "1", 1e-2, 5.0))

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        half, beta = shapes
        power = np.clip(beta * np.log(x.tokens / half), -700, 700)
        left = 1 / (1 + np.exp(power))
        if self.base_loss is None:
            return 0.0, {"E": 1 - left, "L0": left}
        return self.base_loss * left, {"E": 1 - left}

    @property
    def measured(self) -> dict[str, float]:
        return {} if self.base_loss is None else {"L0": self.base_loss}


class Transfer(Law):
    """Pretraining counts as Deff additional tokens of the new data."""

    name = "transfer"
    formula = "L(D) = E + B (D + Deff)^-beta"
    source = "after Hernandez et al. 2021, scaling laws for transfer (arXiv 2102.01293)"
    amplitudes = ("E", "B")
    min_budgets = 4

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (_span("Deff", x.tokens), _exponent("beta"))

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        effective, beta = shapes
        return 0.0, {"E": 1.0, "B": (x.tokens + effective) ** -beta}


class Chinchilla(Law):
    """The sum of a term in the model size and a term in the tokens."""

    name = "chinchilla"
    formula = "L(N, D) = E + A N^-alpha + B D^-beta"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3"
    amplitudes = ("E", "A", "B")
    needs = ("model_size",)

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (_exponent("alpha"), _exponent("beta"))

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        alpha, beta = shapes
        assert x.model_size is not None
        return 0.0, {"E": 1.0, "A": x.model_size**-alpha, "B": x.tokens**-beta}


class DataConstrained(Law):
    """Repeats are worth less each epoch, at a rate set by Rstar; all models have one size."""

    name = "data-constrained"
    formula = "L(D) = E + B D'^-beta, D' = U + U Rstar (1 - exp(-(D/U - 1) / Rstar))"
    source = "Muennighoff et al. 2023 (arXiv 2305.16264), equation 5, for one model size"
    amplitudes = ("E", "B")
    min_budgets = 4
    needs = ("unique_tokens",)

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (_exponent("beta"), Shape("Rstar", "epochs", 1e-2, 1e4))

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        beta, worth = shapes
        unique = x.unique_tokens
        assert unique is not None
        repeats = np.maximum(x.tokens / unique - 1, 0)
        return 0.0, {"E": 1.0, "B": (unique * (1 - worth * np.expm1(-repeats / worth))) ** -beta}


class Broken(Law):
    """A power law whose exponent moves from beta to beta + gamma around Db, over ``width``."""

    name = "broken"
    formula = "L(D) = E + B D^-beta (1 + (D / Db)^(1 / width))^(-gamma width)"
    source = "Caballero et al. 2022, broken neural scaling laws (arXiv 2210.14891), one break"
    amplitudes = ("E", "B")
    min_budgets = 6

    def shapes(self, x: Points) -> tuple[Shape, ...]:
        return (
            _exponent("beta"),
            _span("Db", x.tokens, 0.1, 10.0),
            _exponent("gamma"),
            Shape("width", "1", 0.05, 2.0),
        )

    def terms(self, x: Points, *shapes: Floats) -> Terms:
        beta, where, gamma, width = shapes
        bend = np.logaddexp(0, np.log(x.tokens / where) / width)
        return 0.0, {"E": 1.0, "B": np.exp(-beta * np.log(x.tokens) - gamma * width * bend)}


#: Laws by the name that the command line and fits.csv use.
LAWS: dict[str, type[Law]] = {
    law.name: law for law in (Rectified, Power, Transfer, Chinchilla, DataConstrained, Broken)
}


def register(law: type[Law]) -> type[Law]:
    """Class decorator: make a law known by its name."""
    LAWS[law.name] = law
    return law


def find_law(name: str) -> type[Law]:
    """The law of this name, or of ``module:Class``. Raises AnalysisError where there is none."""
    if name in LAWS:
        return LAWS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise AnalysisError(
            f"there is no law `{name}`; known: {', '.join(LAWS)}; name your own as MODULE:CLASS"
        )
    try:
        law = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise AnalysisError(f"the law `{name}` cannot be imported: {error}") from None
    if not (isinstance(law, type) and issubclass(law, Law)):
        raise AnalysisError(f"`{name}` is not a subclass of scalinglaws.laws.Law")
    return law


def make_laws(names: Sequence[str] | None, x: Points, base_loss: float | None) -> list[Law]:
    """Instances of the laws of these names; by default of all whose variables the data have.

    The base model's loss makes L0 a measurement; without it, L0 is fitted.
    """
    if names is None:
        names = [name for name, law in LAWS.items() if _is_default(law, x)]
    return [
        law(base_loss) if issubclass(law, Rectified) else law()
        for law in (find_law(name) for name in names)
    ]


def _is_default(law: type[Law], x: Points) -> bool:
    for name in law.needs:
        values = getattr(x, name)
        if values is None or len(np.unique(values)) < 2:
            return False
    if "unique_tokens" in law.needs:
        return x.unique_tokens is not None and bool((x.tokens > x.unique_tokens).any())
    sizes = x.model_size
    return "model_size" in law.needs or sizes is None or len(np.unique(sizes)) < 2
