"""Tokens that each method needs to reach a loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scalinglaws.compare.cost import Costs
from scalinglaws.compare.curves import Curves
from scalinglaws.laws import Floats

ISO_LOSS = ["method", "loss", "tokens", "ci_low", "ci_high", "extrapolated", "flops"]
_LEVELS = 5


def default_levels(curves: Mapping[str, Curves]) -> Floats:
    """Up to 5 losses that all curves reach within their measured budgets; perhaps none.

    They are evenly spaced and rounded to three digits of their span.
    """
    if not curves:
        return np.empty(0)
    ends = np.array([c.losses(np.array([c.low, c.high]))[0] for c in curves.values()])
    high, low = ends[:, 0].min(), ends[:, 1].max()
    if high <= low:
        return np.empty(0)
    inner = np.linspace(high, low, _LEVELS + 2)[1:-1]
    levels = np.unique(np.round(inner, 2 - int(np.floor(np.log10(high - low)))))
    return np.asarray(levels[::-1], float)


def iso_loss(
    curves: Mapping[str, Curves],
    training: Costs | None = None,
    levels: Floats | None = None,
) -> pd.DataFrame:
    """Tokens with 95 % interval, and training FLOPs, by method at losses [m] (nats a token).

    Infinite where a curve never reaches the loss; ``extrapolated`` where it reaches it outside the
    method's measured budgets.
    """
    wanted = default_levels(curves) if levels is None else np.asarray(levels, float)
    if not len(wanted):
        return pd.DataFrame(columns=ISO_LOSS)
    prices = (training or {}).get("flops", {})
    rows = []
    for method, own in curves.items():
        tokens = own.tokens_for(wanted[None])
        low, high = own.interval(tokens)
        for loss, count, a, b in zip(wanted, tokens[0], low, high, strict=True):
            outside = not own.low * 0.999 <= count <= own.high * 1.001
            rows.append(
                [
                    method,
                    float(loss),
                    float(count),
                    float(a),
                    float(b),
                    outside,
                    float(count * prices.get(method, np.nan)),
                ]
            )
    return pd.DataFrame(rows, columns=ISO_LOSS)
