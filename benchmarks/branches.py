"""One trunk for all budgets beside one cosine run a budget: losses paired by seed, and tokens.

python benchmarks/branches.py OUT [--seeds 3] [--executor local]

The quickstart model goes on at six budgets spaced by 2, three times in one run directory, where
data, base model and selections are shared: cosine; branches that decay to a tenth, where the
cosine ends too; branches that decay to zero. Writes OUT/branches.csv and OUT/branches.png, and
prints the table of docs/branches.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
import matplotlib.pyplot as plt

BUDGETS = [16_000 * 2**i for i in range(6)]
SWEEP = """\
name: branches
root: {out}
model:
  scratch: {{layers: 2, width: 128, heads: 4}}
  pretrain: {{tokens: 256k, lr: 2e-3, warmup: 12800, schedule: cosine, min_lr_ratio: 0.1}}
tokenizer: {{train: 2048}}
data:
  sequence_length: 128
  base: {{corpus: stdlib, tokens: 256k}}
  pool: {{corpus: stdlib, tokens: 1.2M}}
  eval: {{corpus: stdlib, tokens: 60k}}
budgets: {budgets}
seeds: {seeds}
train: {{global_batch: 2048, micro_batch: 16, lr: 1e-3, {schedule}}}
"""
ARMS = {
    "cosine": "schedule: cosine, warmup: 5%",
    "branch to 0.1": "schedule: wsd-branch, warmup: 4k",
    "branch to 0": "schedule: wsd-branch, warmup: 4k, min_lr_ratio: 0",
}


def run_arms(out: Path, seeds: int, executor: str) -> pd.DataFrame:
    """A row an arm, budget and seed: loss, and tokens of each task's own steps."""
    tables = []
    for arm, schedule in ARMS.items():
        file = out / f"{arm.replace(' ', '-')}.yaml"
        file.write_text(
            SWEEP.format(out=out, budgets=BUDGETS, seeds=list(range(seeds)), schedule=schedule)
        )
        words = ["-m", "hpcscale.cli.main", "sweep", str(file), "--executor", executor]
        subprocess.run([sys.executable, *words], check=True)
        table = pd.read_csv(out / "branches" / "analysis" / "results.csv")
        tables.append(table.assign(arm=arm))
    return pd.concat(tables)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """A row a budget: mean loss of each arm, and the paired difference with its standard error."""
    wide = results.pivot_table(index=["tokens", "seed"], columns="arm", values="loss")
    rows = wide.groupby("tokens").mean()
    for arm in list(ARMS)[1:]:
        difference = (wide[arm] - wide["cosine"]).groupby("tokens")
        rows[f"{arm} - cosine"] = difference.mean()
        rows[f"+- ({arm})"] = difference.std(ddof=1) / np.sqrt(difference.count())
    return rows


def draw(results: pd.DataFrame, rows: pd.DataFrame, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    looks = {"cosine": ("o", "-"), "branch to 0.1": ("s", "--"), "branch to 0": ("^", ":")}
    for arm, (marker, line) in looks.items():
        part = results[results["arm"] == arm]
        (drawn,) = left.plot(rows.index, rows[arm], line, label=arm)
        left.scatter(part["tokens"], part["loss"], marker=marker, s=14, color=drawn.get_color())
        if arm != "cosine":
            right.errorbar(
                rows.index,
                rows[f"{arm} - cosine"],
                rows[f"+- ({arm})"],
                marker=marker,
                linestyle=line,
                color=drawn.get_color(),
                capsize=3,
                label=f"{arm} - cosine",
            )
    right.axhline(0, color="0.6", linewidth=0.8)
    left.set_ylabel("eval loss (nats a token)")
    right.set_ylabel("difference, paired by seed")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows.index, [f"{tokens // 1000}k" for tokens in rows.index])
        axes.minorticks_off()
        axes.set_xlabel("token budget")
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="local")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = run_arms(given.out.absolute(), given.seeds, given.executor)
    results.to_csv(given.out / "branches.csv", index=False)
    rows = summary(results)
    draw(results, rows, given.out / "branches.png")
    print(rows.round(4).to_string())


if __name__ == "__main__":
    main()
