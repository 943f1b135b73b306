"""Types that many modules name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
#: Called with the amount that is done, and the total.
Progress: TypeAlias = Callable[[int, int], None]
