"""Counterfactuals: training on documents of high influence should lower the query loss most."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcscale.influence.validate.report import Table
from hpcscale.influence.validate.setting import Setting, by_variant, unit_losses, up_to_budget
from hpcscale.influence.validate.statistics import Interval, mean_interval
from hpcscale.influence.variants import Variant
from hpcscale.types import Floats, Progress

RANDOM = "random"


@dataclass(frozen=True)
class CounterfactualOptions:
    """candidates: documents to choose from. budget: tokens of each arm. queries: documents that
    influence is measured on; as many others of the query set are held out."""

    candidates: int = 800
    budget: int = 30_000
    queries: int = 48
    proxy_tokens: int = 60_000
    checkpoints: int = 3
    seeds: int = 4
    seed: int = 0


@dataclass(frozen=True)
class CounterfactualResult:
    """``losses``: mean query loss, nats a token, float64 [seeds], by arm (``random``,
    ``dot top``, ..); ``unseen``: the same of the other queries."""

    losses: dict[str, Floats]
    unseen: dict[str, Floats]

    def difference(self, arm: str, other: str = RANDOM, unseen: bool = False) -> Interval:
        """How much lower the loss of ``arm`` is than that of ``other``, paired over seeds."""
        of = self.unseen if unseen else self.losses
        return mean_interval(of[other] - of[arm])

    def tables(self) -> dict[str, Table]:
        arms = [arm for arm in self.losses if arm != RANDOM]
        rows = [
            [
                arm,
                float(self.losses[arm].mean()),
                self.difference(arm),
                float(self.unseen[arm].mean()),
                self.difference(arm, unseen=True),
            ]
            for arm in arms
        ]
        plain = [
            RANDOM,
            float(self.losses[RANDOM].mean()),
            "",
            float(self.unseen[RANDOM].mean()),
            "",
        ]
        seeds = len(self.losses[RANDOM])
        return {
            "losses": Table(
                f"Query loss after training on equal budgets; better than random, paired over "
                f"{seeds} seeds (positive: lower loss)",
                ["arm", "loss", "better by", "loss on unseen queries", "better by (unseen)"],
                [plain, *rows],
            )
        }


def counterfactual(
    setting: Setting,
    options: CounterfactualOptions,
    variants: Sequence[Variant],
    out: Path,
    progress: Progress | None = None,
    domain: str | None = None,
    trained: Callable[[int, int], None] | None = None,
) -> CounterfactualResult:
    """Train on top, random and bottom candidates; a seed decides candidates, proxy run and order.

    The proxy run's documents are not candidates. Raises DataError for too few documents.
    """
    losses: dict[str, list[float]] = {}
    unseen: dict[str, list[float]] = {}
    asked = setting.take(setting.queries, 2 * options.queries, options.seed, domain)
    queries, others = (setting.units(setting.queries, asked[half::2]) for half in (0, 1))
    total, done = options.seeds * (1 + 2 * len(variants)), 0
    for seed in range(options.seed, options.seed + options.seeds):
        order = setting.shuffled(setting.pool, seed)
        candidates, rest = order[: options.candidates], order[options.candidates :]
        learned = up_to_budget(setting.pool, rest, options.proxy_tokens)
        stream = setting.stream(learned, seed, budget=options.proxy_tokens)
        snapshots = setting.proxy_run(stream, options.checkpoints, seed, out / "proxy")
        found = setting.scores(
            snapshots, setting.units(setting.pool, candidates), queries, variants, progress
        )
        arms = {RANDOM: candidates}
        for name, scores in by_variant(variants, found).items():
            ranked = candidates[np.argsort(-scores.mean(1), kind="stable")]
            arms |= {f"{name} top": ranked, f"{name} bottom": ranked[::-1]}
        for arm, ranked in arms.items():
            chosen = up_to_budget(setting.pool, ranked, options.budget)
            model = setting.fit(
                setting.stream(chosen, seed, budget=options.budget), seed, out / "arm"
            )
            shutil.rmtree(out / "arm")
            for units, into in ((queries, losses), (others, unseen)):
                value = float(unit_losses(model, units, setting.ranks.device).mean())
                into.setdefault(arm, []).append(value)
            done += 1
            if trained:
                trained(done, total)
    return CounterfactualResult(
        {arm: np.array(values) for arm, values in losses.items()},
        {arm: np.array(values) for arm, values in unseen.items()},
    )
