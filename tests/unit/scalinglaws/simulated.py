"""What a sweep's analysis directory holds, with known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

BASE = 4.0
BUDGETS = np.geomspace(1e5, 1e7, 5)
#: Floor and budget of half of the way by method: ``far`` is better by a lot, ``same`` by nothing.
METHODS = {"random": (3.0, 8e5), "far": (2.95, 5e5), "same": (3.0, 8e5)}
SEEDS = 3


def truth(method: str, tokens: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    floor, half = METHODS[method]
    return np.asarray(floor + (BASE - floor) / (1 + (tokens / half) ** 0.8))


def results(sd: float = 0.002, seed: int = 3) -> pd.DataFrame:
    """Losses of all cells, with an error that methods of one seed and budget share in part."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, sd, (len(BUDGETS), SEEDS))
    rows = []
    for method in METHODS:
        for place, budget in enumerate(BUDGETS):
            for run in range(SEEDS):
                loss = truth(method, budget) + shared[place, run] + rng.normal(0, sd / 2)
                name = f"{method}-{budget:.0f}-s{run}"
                rows.append(
                    {
                        "method": method,
                        "tokens": budget,
                        "seed": run,
                        "loss": loss,
                        "unique_tokens": budget,
                        "model_size": 675_328,
                        "train_flops": 6 * 675_328 * budget,
                        "device_hours": budget / 4e7,
                        "base_loss": BASE,
                        "cell": f"evaluations/{name}",
                        "fingerprint": f"{abs(hash(name)) % 16**12:012x}",
                    }
                )
    return pd.DataFrame(rows)


def write_run(folder: Path, frame: pd.DataFrame | None = None) -> Path:
    """``results.csv`` and all that a sweep writes beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = results() if frame is None else frame
    frame.to_csv(folder / "results.csv", index=False)
    domains = pd.concat(
        [
            frame[["method", "tokens", "seed"]].assign(
                domain=name, loss=frame["loss"] + shift, base_loss=BASE + shift
            )
            for name, shift in (("code", -0.5), ("prose", 0.5))
        ]
    )
    domains.to_csv(folder / "results-domains.csv", index=False)
    costs = pd.DataFrame(
        {
            "method": ["far", "same"],
            "stage": "score",
            "tasks": 1,
            "flops": [1e12, 1e12],
            "device_hours": [0.01, 0.01],
            "device": "cpu",
            "shared_with": ["same", "far"],
        }
    )
    costs.to_csv(folder / "costs.csv", index=False)
    steps = np.arange(0, 11)
    curves = [
        pd.DataFrame(
            {
                "method": row.method,
                "tokens": row.tokens,
                "seed": row.seed,
                "step": steps,
                "tokens_seen": steps * row.tokens / 10,
                "train_loss": np.linspace(BASE, row.loss, len(steps)),
                "eval_loss": [BASE, *[np.nan] * 9, row.loss],
                "learning_rate": 1e-3,
            }
        )
        for row in frame.itertuples()
    ]
    pd.concat(curves).to_csv(folder / "trajectories.csv", index=False)
    overlap = [
        {
            "tokens": budget,
            "seed": 0,
            "method_a": a,
            "method_b": b,
            "documents_a": 100,
            "documents_b": 100,
            "shared_documents": 30,
            "jaccard": 30 / 170,
            "shared_tokens": 1000,
            "token_jaccard": 0.2,
        }
        for budget in BUDGETS
        for a, b in (("random", "far"), ("random", "same"), ("far", "same"))
    ]
    pd.DataFrame(overlap).to_csv(folder / "overlap.csv", index=False)
    setting = {
        "sweep": {"name": "simulated"},
        "model": {"parameters": 675_328},
        "training": {"schedule": "cosine", "learning_rate": 0.001},
    }
    (folder / "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    return folder
