"""From the influence on each query to one score a document.

==========  ==========================================================================
``mean``    the weighted mean over queries: the influence on their mean loss
``domain``  the weighted mean over the queries of each domain, and the best of them
            (as LESS takes the best subtask, Xia et al. 2024, arXiv 2402.04333)
``max``     the query on which the influence is largest
``self``    the document on itself, which asks for no query
==========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpcscale.errors import ConfigError
from hpcscale.types import Floats

Kind = Literal["mean", "domain", "max", "self"]


@dataclass(frozen=True)
class Groups:
    """The columns of a score block, and what each query weighs in them.

    names: of the columns. weights: float64 [columns, queries], rows that sum to 1; None where each
    query is a column of its own.
    """

    names: tuple[str, ...]
    weights: Floats | None

    def part(self, first: int, last: int) -> Groups:
        """The queries [first, last) alone, with the weights that they have among all."""
        if self.weights is None:
            return Groups(self.names[first:last], None)
        return Groups(self.names, self.weights[:, first:last])


def group_queries(
    kind: Kind,
    domains: npt.NDArray[np.integer[Any]],
    domain_names: Sequence[str],
    query_weights: Mapping[str, float] | None = None,
) -> Groups:
    """Groups of the queries whose domain codes are ``domains`` (int [queries]).

    ``query_weights`` weigh the queries of a domain against those of others (1 where not named).
    Raises ConfigError where they name no domain of the query set, or nothing has a weight.
    """
    if kind == "self":
        return Groups(("self",), np.ones((1, 0)))
    given = dict(query_weights or {})
    unknown = sorted(set(given) - set(domain_names))
    if unknown:
        raise ConfigError(
            f"query_weights names `{unknown[0]}`, which is no domain of the query set; it has: "
            f"{', '.join(domain_names)}"
        )
    weights = np.array([given.get(name, 1.0) for name in domain_names])[np.asarray(domains)]
    if not weights.sum() > 0:
        raise ConfigError("query_weights leave no query with a weight above 0")
    if kind == "max":
        return Groups(tuple(f"query-{i}" for i in range(len(domains))), None)
    if kind == "mean":
        return Groups(("mean",), (weights / weights.sum())[None])
    present = [c for c in range(len(domain_names)) if weights[np.asarray(domains) == c].sum() > 0]
    rows = np.stack([weights * (np.asarray(domains) == code) for code in present])
    return Groups(tuple(domain_names[c] for c in present), rows / rows.sum(1, keepdims=True))
