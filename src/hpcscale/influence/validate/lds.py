"""The linear datamodeling score: do sums of influence predict the losses of retrained models?

Random half-subsets S of a small candidate set are trained on from the same base model, and the
loss of each query is measured. The score of a query is Spearman's correlation, over the subsets,
of sum over i in S of influence(i, q) with minus that loss (Park et al. 2023, arXiv 2303.14186,
definition 2.3): positive influence means a lower loss.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import atomic_writer
from hpcscale.errors import ConfigError
from hpcscale.influence.validate.bm25 import bm25
from hpcscale.influence.validate.report import Table
from hpcscale.influence.validate.setting import Setting, by_variant, unit_losses
from hpcscale.influence.validate.statistics import Correlation, mean_spearman
from hpcscale.influence.variants import Variant
from hpcscale.types import Floats, Progress

Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LdsOptions:
    """candidates, queries: documents. subsets: trainings, each on half of the candidates.
    repeats: trainings of each subset in different orders, whose losses are averaged."""

    candidates: int = 256
    queries: int = 64
    subsets: int = 64
    repeats: int = 1
    epochs: int = 3
    checkpoints: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 4 or self.subsets < 3:
            raise ConfigError(
                f"{self.candidates} candidates and {self.subsets} subsets are too few to compare "
                "ranks; ask for 4 candidates and 3 subsets or more"
            )


@dataclass(frozen=True)
class LdsResult:
    """``scores``: [candidates, queries] by variant. ``masks``: [subsets, candidates], the members.
    ``losses``: [subsets, queries], nats per token; ``base``: [queries], before any training."""

    scores: dict[str, Floats]
    masks: Masks
    losses: Floats
    base: Floats

    def correlations(self) -> dict[str, Correlation]:
        return datamodeling(self.scores, self.masks, self.losses)

    def tables(self) -> dict[str, Table]:
        found = self.correlations()
        first = next(iter(found))
        rows = [
            [
                name,
                one.over_rows,
                one.over_both,
                "" if name == first else one.above(found[first]),
                float(np.mean(one.per_row > 0)),
            ]
            for name, one in found.items()
        ]
        spread = float(self.losses.std(0, ddof=1).mean())
        gain = float((self.base - self.losses.mean(0)).mean())
        return {
            "lds": Table(
                f"Linear datamodeling score, {len(self.masks)} half-subsets of "
                f"{self.masks.shape[1]} documents, {len(self.base)} queries",
                [
                    "variant",
                    "LDS, CI over queries",
                    "LDS, CI over queries and subsets",
                    f"above {first}",
                    "queries above 0",
                ],
                rows,
            ),
            "trainings": Table(
                "What the trainings did",
                ["", "nats a token"],
                [
                    ["query loss before", float(self.base.mean())],
                    ["mean fall of the query loss", gain],
                    ["standard deviation over subsets", spread],
                ],
            ),
        }


def datamodeling(
    scores: Mapping[str, Floats], masks: Masks, losses: Floats
) -> dict[str, Correlation]:
    """Spearman's correlation over subsets for each query, and its mean, by variant.

    scores: [candidates, queries]. masks: [subsets, candidates]. losses: [subsets, queries].
    """
    return {name: mean_spearman((masks @ matrix).T, -losses.T) for name, matrix in scores.items()}


def half_subsets(candidates: int, count: int, seed: int) -> Masks:
    """Random halves of the candidates, bool [count, candidates]."""
    rng = np.random.default_rng([seed, 0x1D5])
    masks = np.zeros((count, candidates), dtype=np.bool_)
    for row in masks:
        row[rng.permutation(candidates)[: candidates // 2]] = True
    return masks


def lds(
    setting: Setting,
    options: LdsOptions,
    variants: Sequence[Variant],
    out: Path,
    progress: Progress | None = None,
    domain: str | None = None,
    trained: Callable[[int, int], None] | None = None,
) -> LdsResult:
    """Score the candidates with a training on all of them, then train on each half-subset.

    ``domain``: of the queries. ``trained(done, total)`` counts the trainings. ``masks.npy`` and
    ``losses.npy`` in ``out`` hold the same as the result. Raises DataError for too few documents.
    """
    pool, device = setting.pool, setting.ranks.device
    candidates = setting.take(pool, options.candidates, options.seed)
    asked = setting.take(setting.queries, options.queries, options.seed, domain)
    queries = setting.units(setting.queries, asked)
    stream = setting.stream(candidates, options.seed, options.epochs)
    snapshots = setting.proxy_run(stream, options.checkpoints, options.seed, out / "proxy")
    units = setting.units(pool, candidates)
    scores = by_variant(variants, setting.scores(snapshots, units, queries, variants, progress))
    scores["bm25"] = bm25(
        [pool.tokens(int(i)) for i in candidates],
        [setting.queries.tokens(int(i)) for i in asked],
        pool.vocab_size,
    )
    masks = half_subsets(options.candidates, options.subsets, options.seed)
    losses = np.zeros((options.subsets, options.queries))
    done = 0
    for row, mask in enumerate(masks):
        for repeat in range(options.repeats):
            seed = options.seed + 1 + repeat
            work = out / "subset"
            model = setting.fit(setting.stream(candidates[mask], seed, options.epochs), seed, work)
            shutil.rmtree(work)
            losses[row] += unit_losses(model, queries, device) / options.repeats
            done += 1
            if trained:
                trained(done, options.subsets * options.repeats)
    for name, array in (("masks", masks), ("losses", losses)):
        with atomic_writer(out / f"{name}.npy") as handle:
            np.save(handle, array)
    return LdsResult(scores, masks, losses, unit_losses(setting.load(), queries, device))
