"""Many variants of influence from the same passes, for comparing them on small models.

==================  ==============================================================
``dot``             sum_c eta_c <g_c(i), g_c(q)>
``cosine``          both gradients divided by their norms, at each checkpoint
``adam``            sum_c eta_c <P_c^1/2 g_c(i), P_c^1/2 g_c(q)>, P Adam's metric
``adam-cosine``     both P^1/2 g divided by their norms, at each checkpoint
``adam:1e-6``       Adam's metric with this epsilon in place of the run's own
``...@4096``        from sketches of that many numbers, in place of full gradients
==================  ==============================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hpcscale.errors import ConfigError
from hpcscale.influence.examples import BATCH_TOKENS, Examples
from hpcscale.influence.factors import Direction
from hpcscale.influence.gradients import example_features, inner_products
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.types import Floats, Ints

_NAME = re.compile(r"(?:(dot|cosine)|adam(:[0-9.]+(?:e[+-]?\d+)?)?(-cosine)?)(?:@([1-9]\d*))?")
#: Bytes of features of pool examples, and of queries, that are held at a time.
_HELD = 1 << 28


@dataclass(frozen=True)
class Variant:
    """``metric``: ``none``, ``adam`` or ``adam:EPSILON``. ``dimension``: None is exact."""

    metric: str
    cosine: bool
    dimension: int | None = None

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Raises ConfigError for a name that is none of the module's table."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigError(
                f"there is no variant {name!r}; write dot, cosine, adam or adam-cosine, for "
                "another epsilon adam:1e-6 or adam:1e-6-cosine, and @4096 behind any for sketches"
            )
        plain, epsilon, cosine, dimension = found.groups()
        return cls(
            "none" if plain else f"adam{epsilon or ''}",
            plain == "cosine" or bool(cosine),
            int(dimension) if dimension else None,
        )

    @property
    def name(self) -> str:
        if self.metric == "none":
            base = "cosine" if self.cosine else "dot"
        else:
            base = self.metric + ("-cosine" if self.cosine else "")
        return base if self.dimension is None else f"{base}@{self.dimension}"

    @property
    def epsilon(self) -> float | None:
        """Of Adam's metric; None is the run's own."""
        value = self.metric.partition(":")[2]
        return float(value) if value else None


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights loaded, and the learning rate it stands for.

    ``roots``: P^1/2 by parameter name, for each metric but ``none`` that is asked for.
    """

    model: nn.Module
    eta: float
    roots: Mapping[str, Direction] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """``by_variant``: float64 [pool, query] each. ``norms``: float64 [pool], the mean over the
    learning rate of the plain gradient's norm; exact only beside an exact variant, else of the
    sketch."""

    by_variant: dict[Variant, Floats]
    norms: Floats


def variant_scores(
    checkpoints: Iterable[Checkpoint],
    pool: Examples,
    queries: Examples,
    variants: Sequence[Variant],
    *,
    device: torch.device,
    rank: int | Literal["auto"] = "auto",
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    held: int = _HELD,
) -> Scores:
    """Influence of each pool example on each query by every variant.

    ``checkpoints`` are iterated over once, so that each may load its weights into the same model.
    ``rank`` and ``seed`` are of the sketches. Beside the result, about ``held`` bytes are in memory
    of each side.
    """
    found = {variant: np.zeros((pool.count, queries.count)) for variant in variants}
    norms, total = np.zeros(pool.count), 0.0
    dimensions = sorted({v.dimension for v in variants}, key=lambda d: (d is not None, d or 0))
    for checkpoint in checkpoints:
        total += checkpoint.eta
        for dimension in dimensions:
            sides = _Sides(checkpoint, dimension, rank, seed, device, batch_tokens, variants, held)
            sizes = sides.accumulate(pool, queries, found)
            if dimension == dimensions[0]:
                norms += checkpoint.eta * sizes
    return Scores(found, norms / total if total else norms)


class _Sides:
    """Features of both sides at one checkpoint, of one dimension, in every metric."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dimension: int | None,
        rank: int | Literal["auto"],
        seed: int,
        device: torch.device,
        batch_tokens: int,
        variants: Sequence[Variant],
        held: int,
    ) -> None:
        self.checkpoint, self.batch_tokens = checkpoint, batch_tokens
        self.variants = [v for v in variants if v.dimension == dimension]
        # The plain gradient's norm is reported beside every variant.
        self.metrics = list(dict.fromkeys(["none", *(v.metric for v in self.variants)]))
        exact = dimension is None
        projection = Projection(None, None) if exact else Projection(rank, dimension, seed)
        dtype = next(checkpoint.model.parameters()).dtype
        self.sketch = Sketch(checkpoint.model, projection, device, dtype)
        self.exact = exact
        self.flat = {
            metric: self.sketch.of(checkpoint.roots[metric])
            for metric in self.metrics
            if exact and metric != "none"
        }
        row = self.sketch.dimension * dtype.itemsize
        self.pool_rows = max(1, held // (2 * row))
        self.query_rows = max(1, held // (row * len(self.metrics)))

    def accumulate(self, pool: Examples, queries: Examples, into: dict[Variant, Floats]) -> Floats:
        """Add eta times the scores; the norms of the pool's plain gradients, float64 [pool]."""
        norms = np.zeros(pool.count)
        for columns in _blocks(queries.count, self.query_rows):
            query = {metric: _with_norms(f) for metric, f in self._features(queries, columns)}
            for rows in _blocks(pool.count, self.pool_rows):
                place = np.ix_(rows, columns)
                for metric, features in self._features(pool, rows):
                    features, sizes = _with_norms(features)
                    others, other_sizes = query[metric]
                    if metric == "none":
                        norms[rows] = sizes
                    wanted = [v for v in self.variants if v.metric == metric]
                    products = inner_products(features, others) if wanted else None
                    for variant in wanted:
                        assert products is not None
                        by = np.outer(_safe(sizes), _safe(other_sizes)) if variant.cosine else 1.0
                        into[variant][place] += self.checkpoint.eta * products / by
        return norms

    def _features(self, examples: Examples, which: Ints) -> Iterator[tuple[str, Tensor]]:
        """(metric, features [len(which), dimension]) of the examples ``which``, one at a time."""
        plain = self._taken(examples, which, None)
        yield "none", plain
        for metric in self.metrics:
            if metric == "none":
                continue
            if self.exact:
                yield metric, plain * self.flat[metric]
            else:
                yield metric, self._taken(examples, which, self.checkpoint.roots[metric])

    def _taken(self, examples: Examples, which: Ints, scale: Direction | None) -> Tensor:
        return example_features(
            self.checkpoint.model,
            examples,
            which,
            self.sketch,
            scale=scale,
            batch_tokens=self.batch_tokens,
        )


def _blocks(count: int, size: int) -> Iterator[Ints]:
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def _with_norms(features: Tensor) -> tuple[Tensor, Floats]:
    norms: Floats = features.square().sum(1, dtype=torch.float64).sqrt().cpu().numpy()
    return features, norms


def _safe(norms: Floats) -> Floats:
    """A zero gradient has no direction: its cosine is 0."""
    safe: Floats = np.where(norms > 0, norms, np.inf)
    return safe
