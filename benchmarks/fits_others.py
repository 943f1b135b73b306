"""The usual ways to fit Chinchilla's law: scipy from every start of a grid, and other packages.

Packages are run by another interpreter, so that this one needs none of them: the folder of a
virtual environment that has them.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from scalinglaws.huber import DELTA
from scalinglaws.laws import Points

Array = npt.NDArray[np.float64]
#: 72 starts of log E, log A, log B, alpha, beta, spread as those of Hoffmann et al. 2022.
GRID = np.array(
    list(
        itertools.product(
            [-1.0, 0.0, 1.0], [0.0, 10.0, 20.0], [0.0, 20.0], [0.25, 1.0], [0.25, 1.0]
        )
    )
)


#: scipy's method, whether the gradient is given, and its options.
WAYS: dict[str, tuple[str, bool, dict[str, float]]] = {
    "L-BFGS-B, exact gradient, tight": (
        "L-BFGS-B",
        True,
        {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxfun": 5000},
    ),
    "L-BFGS-B, exact gradient, scipy's tolerances": ("L-BFGS-B", True, {}),
    "L-BFGS-B, numerical gradient, scipy's tolerances": ("L-BFGS-B", False, {}),
    "BFGS, exact gradient, tight": ("BFGS", True, {"gtol": 1e-9, "maxiter": 2000}),
}


class UsualLoop:
    """Sum of Huber's loss on log losses by log-sum-exp, minimised from each start of a grid."""

    def __init__(self, x: Points, losses: Array) -> None:
        assert x.model_size is not None
        self.size, self.tokens = np.log(x.model_size), np.log(x.tokens)
        self.losses = np.log(losses)

    def objective(self, theta: Array, weights: Array) -> tuple[float, Array]:
        """The sum, and its slope in log E, log A, log B, alpha, beta."""
        e, a, b, alpha, beta = theta
        parts = np.stack(
            [np.full_like(self.size, e), a - alpha * self.size, b - beta * self.tokens]
        )
        top = parts.max(axis=0)
        shares = np.exp(parts - top)
        total = shares.sum(axis=0)
        missed = top + np.log(total) - self.losses
        shares *= np.clip(missed, -DELTA, DELTA) * weights / total
        slope = np.array([*shares.sum(axis=1), -shares[1] @ self.size, -shares[2] @ self.tokens])
        return float(special.huber(DELTA, missed) @ weights), slope

    def value(self, theta: Array, weights: Array) -> float:
        return self.objective(theta, weights)[0]

    def fit(self, weights: Array, way: str) -> float:
        """The best objective of all starts."""
        method, exact, options = WAYS[way]
        work = self.objective if exact else self.value
        found = [
            optimize.minimize(work, start, weights, method, jac=exact, options=options)
            for start in GRID
        ]
        return min(float(each.fun) for each in found)


CHINCHILLA = """
import os, sys, tempfile, time
import numpy as np
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
table = np.load(sys.argv[1])
grid = dict(e=[-1., 0., 1.], a=[0., 10., 20.], b=[0., 20.], alpha=[.25, 1.], beta=[.25, 1.])
with tempfile.TemporaryDirectory() as folder:
    model = Chinchilla(folder, param_grid=grid, log_level=40, loss_fn=log_huber)
    for n, d, loss in table:
        model.append(N=n, D=d, loss=loss)
    begun = time.perf_counter()
    model.fit(parallel=True)
    taken = time.perf_counter() - begun
print(taken, float(model.E), float(model.A), float(model.B), float(model.alpha), float(model.beta))
"""

SIMPLE = """
import sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import polars as pl
from simple_scaling_laws import fit
tokens, loss = np.load(sys.argv[1]).T
runs = pl.DataFrame({"training_run_id": [str(i) for i in range(len(loss))],
                     "dataset_size__tokens": tokens, "test_loss__nats": loss})
fit(runs, law="separable-power", n_draws=20, seed=0)
begun = time.perf_counter()
fit(runs, law="separable-power", n_draws=1000, seed=0)
print(time.perf_counter() - begun)
"""


def other(python: Path, script: str, table: Array) -> list[float] | None:
    """The numbers that ``script`` prints under another interpreter; None where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "table.npy", table)
        done = subprocess.run(
            [python, "-c", script, Path(folder) / "table.npy"],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        print(f"  left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return None
    return [float(word) for word in done.stdout.split()[-6:]]
