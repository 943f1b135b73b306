"""The score stage: gradients in memory maps against queries, beside the machine's own matmul.

python benchmarks/influence_score.py [--documents 100000] [--queries 1000] [--dimension 4096]
    [--rounds 3] [--threads 2]

Each round times a float32 matrix product of blocks that lie in memory (the machine's own rate),
then a score block of the same size in a process of its own: fp16 rows read, widened, multiplied,
scores written and synced. Peak memory counts what the process holds beyond what it held before;
pages of the maps count in it, as Linux counts them. The first round warms up.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hpcscale.influence.aggregate import Groups
from hpcscale.influence.blocks import score_block
from hpcscale.influence.gradient_shards import GradientShard, ShardWriter


def make_shard(folder: Path, rows: int, dimension: int) -> None:
    facts = {"key": "", "world_size": 1, "sketch": {}, "preconditioned": False}
    writer = ShardWriter(folder, 0, np.arange(rows), dimension, "fp16", facts)
    generator = torch.Generator().manual_seed(rows)
    for first in range(0, rows, 10_000):
        count = min(10_000, rows - first)
        writer.write(first, torch.randn(count, dimension, generator=generator))
        writer.commit(first + count)


def matmul_rate(rows: int, queries: int, dimension: int, threads: int) -> float:
    """FLOP/s of float32 products of 4,096 rows at a time into one output."""
    torch.set_num_threads(threads)
    left, right = torch.randn(4096, dimension), torch.randn(dimension, queries)
    out = torch.empty(4096, queries)
    torch.matmul(left, right, out=out)
    times = max(1, rows // 4096)
    began = time.perf_counter()
    for _ in range(times):
        torch.matmul(left, right, out=out)
    return 2.0 * 4096 * times * queries * dimension / (time.perf_counter() - began)


def score_alone(folder: str, queries: int, threads: int, out: str) -> None:
    """Seconds, and MB above what the process held before; called in a process of its own."""
    torch.set_num_threads(threads)
    pool, query = (GradientShard(Path(folder) / name) for name in ("pool", "query"))
    groups = Groups(tuple(str(i) for i in range(queries)), None)
    torch.randn(64, 64) @ torch.randn(64, 64)
    # The peak so far is that of the imports; Linux counts anew from here.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmHWM")
    began = time.perf_counter()
    score_block(pool, query, groups, False, Path(out))
    seconds = time.perf_counter() - began
    print(seconds, memory("VmHWM") - before)


def memory(name: str) -> float:
    """A figure of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    n, m, d = asked.documents, asked.queries, asked.dimension
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shard(folder / "pool", n, d)
        make_shard(folder / "query", m, d)
        shares, peaks, rates = [], [], []
        for round_ in range(asked.rounds + 1):
            rate = matmul_rate(n, m, d, asked.threads)
            code = (
                "import influence_score as s; "
                f"s.score_alone({name!r}, {m}, {asked.threads}, {str(folder / f'out{round_}')!r})"
            )
            ran = subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parent,
                check=True,
                capture_output=True,
                text=True,
            )
            seconds, peak = map(float, ran.stdout.split())
            if round_:
                shares.append(2.0 * n * m * d / seconds / rate)
                rates.append(rate / 1e9)
                peaks.append(peak)
        print(f"{n} x {d} fp16 against {m} queries, {asked.threads} threads")
        print(f"the machine's own float32 product: {statistics.median(rates):.0f} GFLOP/s")
        print(
            f"score stage: {100 * statistics.median(shares):.0f} % of it "
            f"[{100 * min(shares):.0f} to {100 * max(shares):.0f}]"
        )
        print(
            f"peak {max(peaks):.0f} MB more than before; the output is {4 * n * m / 2**20:.0f} MB"
        )


if __name__ == "__main__":
    main()
