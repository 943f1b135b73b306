"""Planted noise: a correct score ranks spoilt documents below clean ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcscale.influence.validate.foreign import other_language
from hpcscale.influence.validate.planting import CLEAN, plant, spoilers
from hpcscale.influence.validate.report import Table, pivot
from hpcscale.influence.validate.setting import Setting, by_variant, unit_losses, up_to_budget
from hpcscale.influence.validate.statistics import Interval, auc, mean_interval, spearman
from hpcscale.influence.variants import Variant
from hpcscale.types import Floats, Progress

#: The baseline: documents of low loss under the base model rank on top.
PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class NoiseOptions:
    """documents: clean ones, each with one copy per kind. queries: documents of the query set."""

    documents: int = 150
    queries: int = 64
    proxy_tokens: int = 100_000
    checkpoints: int = 3
    seed: int = 0
    language: Path | None = None


@dataclass(frozen=True)
class NoiseResult:
    """``scores``: float64 [documents] by variant and kind. ``norms``: of the plain gradients at the
    proxy run, by kind. ``losses``: under the base model, by kind. ``lengths``: tokens.
    ``trained``: the loss of each query after training on only one kind, float64 [queries]."""

    scores: dict[str, dict[str, Floats]]
    norms: dict[str, Floats]
    losses: dict[str, Floats]
    lengths: Floats
    trained: dict[str, Floats]

    def harm(self, kind: str) -> Interval:
        """How much higher the query loss is after training on ``kind`` than on clean documents."""
        return mean_interval(self.trained[kind] - self.trained[CLEAN])

    def auc(self, variant: str, kind: str) -> Interval:
        """Of ranking noise below the clean documents; 0.5 is chance, 1 is always correct."""
        of = self.scores[variant]
        return auc(of[CLEAN], of[kind], paired=True)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in self.norms if kind != CLEAN]

    def tables(self) -> dict[str, Table]:
        areas = [(k, v, self.auc(v, k)) for k in self.kinds for v in self.scores]
        means = [
            ("mean of kinds", v, float(np.mean([a.value for _, w, a in areas if w == v])))
            for v in self.scores
        ]
        clean_norms = self.norms[CLEAN]
        median = np.median(clean_norms)
        return {
            "auc": pivot("AUC of ranking noise below clean documents", "noise", [*areas, *means]),
            "bias": Table(
                "Spearman of the scores of clean documents with what they should not depend on",
                ["variant", "with tokens", "with gradient norm"],
                [
                    [variant, spearman(of[CLEAN], self.lengths), spearman(of[CLEAN], clean_norms)]
                    for variant, of in self.scores.items()
                ],
            ),
            "kinds": Table(
                "What the kinds look like to the model",
                [
                    "kind",
                    "gradient norm (median, clean = 1)",
                    "loss under the base model",
                    "query loss when trained on, above clean",
                ],
                [
                    [
                        kind,
                        float(np.median(self.norms[kind]) / median),
                        float(of.mean()),
                        "" if kind == CLEAN else self.harm(kind),
                    ]
                    for kind, of in self.losses.items()
                ],
            ),
        }


def noise_check(
    setting: Setting,
    options: NoiseOptions,
    variants: Sequence[Variant],
    out: Path,
    progress: Progress | None = None,
) -> NoiseResult:
    """Plant noise, score it along with the clean documents, and compare.

    The proxy run is trained on other documents of the pool, without noise. The base model is also
    trained on each kind separately, which shows whether the kind is harmful. Writes the planted
    token store and the proxy run into ``out``. Raises DataError for too few documents.
    """
    store, device = setting.pool, setting.ranks.device
    clean = setting.take(store, options.documents, options.seed)
    rest = setting.shuffled(store, options.seed)[options.documents :]
    sample = " ".join(setting.tokenizer.decode(store.tokens(int(i)).tolist()) for i in rest[:200])
    kinds = spoilers(setting.tokenizer, other_language(sample, options.language))
    planted = plant(store, clean, setting.tokenizer, kinds, out / "planted")

    learned = up_to_budget(store, rest, options.proxy_tokens)
    stream = setting.stream(learned, options.seed, budget=options.proxy_tokens)
    snapshots = setting.proxy_run(stream, options.checkpoints, options.seed, out / "proxy")
    chosen = setting.take(setting.queries, options.queries, options.seed)
    units = setting.units(planted, np.arange(planted.n_documents))
    queries = setting.units(setting.queries, chosen)
    scores = setting.scores(snapshots, units, queries, variants, progress)
    losses = unit_losses(setting.load(), units, device)

    def by_kind(values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip((CLEAN, *kinds), values.reshape(-1, options.documents), strict=True))

    alone = replace(setting, pool=planted)
    trained = {}
    for kind, positions in by_kind(np.arange(planted.n_documents)).items():
        model = alone.fit(alone.stream(positions, options.seed), options.seed, out / "kind")
        trained[kind] = unit_losses(model, queries, device)
    by_name = {name: by_kind(s.mean(1)) for name, s in by_variant(variants, scores).items()}
    lengths = store.lengths[clean].astype(np.float64)
    return NoiseResult(
        by_name | {PERPLEXITY: by_kind(-losses)},
        by_kind(scores.norms),
        by_kind(losses),
        lengths,
        trained,
    )
