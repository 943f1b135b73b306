"""Domain retrieval: with queries of one domain, its documents in the pool should rank on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcscale.data.store import TokenStore
from hpcscale.errors import DataError
from hpcscale.influence.validate.bm25 import bm25
from hpcscale.influence.validate.report import Table, pivot
from hpcscale.influence.validate.setting import Setting, by_variant, unit_losses, up_to_budget
from hpcscale.influence.validate.statistics import Interval, auc
from hpcscale.influence.variants import Variant
from hpcscale.types import Floats, Ints, Progress

#: A domain with fewer queries or documents than this is left out.
_FEWEST = 5
BASELINES = ("bm25", "perplexity")


@dataclass(frozen=True)
class RetrievalOptions:
    """documents: of the pool, equally many of each domain. queries: at most, of each domain."""

    documents: int = 500
    queries: int = 32
    proxy_tokens: int = 100_000
    checkpoints: int = 3
    seed: int = 0


@dataclass(frozen=True)
class RetrievalResult:
    """``scores``: float64 [documents] by variant or baseline, and query domain. ``domains``: of
    each document. ``left_out``: domains with too few queries or documents."""

    scores: dict[str, dict[str, Floats]]
    domains: list[str]
    left_out: list[str]

    def auc(self, variant: str, domain: str) -> Interval:
        """Of ranking the domain's documents above all others; 0.5 is chance."""
        own = np.array(self.domains) == domain
        scores = self.scores[variant][domain]
        return auc(scores[own], scores[~own])

    def tables(self) -> dict[str, Table]:
        found = next(iter(self.scores.values()))
        areas = [(d, v, self.auc(v, d)) for d in found for v in self.scores]
        means = [
            ("mean of domains", v, float(np.mean([a.value for _, w, a in areas if w == v])))
            for v in self.scores
        ]
        title = "AUC of ranking a domain's documents on top, with queries of that domain"
        return {"auc": pivot(title, "domain", [*areas, *means])}


def domain_retrieval(
    setting: Setting,
    options: RetrievalOptions,
    variants: Sequence[Variant],
    out: Path,
    progress: Progress | None = None,
) -> RetrievalResult:
    """Score a part of the pool for the queries of each domain.

    Raises DataError where fewer than two domains have enough queries and documents.
    """
    pool, queries = setting.pool, setting.queries
    order = setting.shuffled(pool, options.seed)
    scored = _balanced(pool, order, options.documents)
    rest = order[~np.isin(order, scored)]
    learned = up_to_budget(pool, rest, options.proxy_tokens)
    stream = setting.stream(learned, options.seed, budget=options.proxy_tokens)

    asked = _queries(setting, options)
    counts = {d: sum(_domain(pool, i) == d for i in scored) for d in asked}
    left_out = sorted(
        {*queries.domain_names, *pool.domain_names} - {d for d in asked if counts[d] >= _FEWEST}
    )
    asked = {domain: found for domain, found in asked.items() if domain not in left_out}
    if len(asked) < 2:
        raise DataError(
            f"{queries.path} has {len(asked)} domain(s) with {_FEWEST} queries and as many "
            "documents in the pool, but two are needed; give the query set more domains"
        )
    snapshots = setting.proxy_run(stream, options.checkpoints, options.seed, out / "proxy")
    together = np.concatenate(list(asked.values()))
    units = setting.units(pool, scored)
    scores = setting.scores(snapshots, units, setting.units(queries, together), variants, progress)
    matrices = by_variant(variants, scores)
    matrices["bm25"] = bm25(
        [pool.tokens(int(i)) for i in scored],
        [queries.tokens(int(i)) for i in together],
        pool.vocab_size,
    )
    losses = unit_losses(setting.load(), units, setting.ranks.device)
    matrices["perplexity"] = np.tile(-losses[:, None], (1, len(together)))
    return RetrievalResult(
        {name: _by_domain(matrix, asked) for name, matrix in matrices.items()},
        [_domain(pool, i) for i in scored],
        left_out,
    )


def _domain(store: TokenStore, position: int) -> str:
    return store.domain_names[int(store.domains[position])]


def _balanced(store: TokenStore, order: Ints, count: int) -> Ints:
    """The first documents of each domain in ``order``, equally many where a domain has them."""
    codes = np.asarray(store.domains)[order]
    share = -(-count // len(store.domain_names))
    return np.concatenate([order[codes == c][:share] for c in range(len(store.domain_names))])


def _queries(setting: Setting, options: RetrievalOptions) -> dict[str, Ints]:
    store = setting.queries
    found = {
        domain: setting.shuffled(store, options.seed, domain)[: options.queries]
        for domain in store.domain_names
    }
    return {domain: chosen for domain, chosen in found.items() if len(chosen) >= _FEWEST}


def _by_domain(matrix: Floats, asked: dict[str, Ints]) -> dict[str, Floats]:
    ends = np.cumsum([len(found) for found in asked.values()])[:-1]
    parts = np.split(matrix, ends, axis=1)
    return {domain: part.mean(1) for domain, part in zip(asked, parts, strict=True)}
