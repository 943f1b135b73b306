"""P values of several tests at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scalinglaws.laws import Floats


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's (1979) step-down p values [n]; a NaN is not a test and stays NaN."""
    values = np.asarray(p, float)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    ordered = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(ordered), 0, -1)
    adjusted[ordered] = np.minimum(np.maximum.accumulate(factors * values[ordered]), 1)
    return adjusted
