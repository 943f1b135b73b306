"""Our engines beside the shortest honest plain loop, alternating; and two ranks beside one.

python benchmarks/train_loop.py [--model 124M] [--rows 8] [--steps 20] [--rounds 5]
    [--only engines|ranks] [--threads 1] [--clock wall|cpu]

Each way trains the same rows; ratios are of medians of step times, so that a burst of other load
counts in none (where there is always some, processor time says more). The fewer rows a step, the
more weighs what a step costs whatever its tokens. Ranks have one thread each, and stand beside
one rank with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.packing import PackedStream
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.model.build import build_model
from hpcscale.train.distributed import Ranks, close_group
from hpcscale.train.engine import adamw
from hpcscale.train.loop import train
from hpcscale.train.options import Hooks, RunSetup

#: Shape, vocabulary, sequence length, rows a step and rank.
MODELS = {
    "4x128": (Shape(layers=4, width=128, heads=4), 2048, 256, 8),
    "124M": (Shape(layers=12, width=768, heads=12), 50257, 256, 2),
}


#: Seconds: of the wall, or of this process.
clock = time.perf_counter


class Setting:
    def __init__(self, name: str, rows: int, steps: int, folder: Path, ranks: int = 1) -> None:
        self.shape, self.vocabulary, self.length, usual = MODELS[name]
        rows = rows or usual
        self.steps, self.rows = steps, rows * ranks
        self.config = TrainConfig(
            global_batch=self.rows * self.length, micro_batch=rows, zero=1, sinks=[]
        )
        path = folder / "store"
        if not path.exists():
            make_store(path, self.vocabulary, (steps + 1) * 2 * rows * self.length)
        self.store = TokenStore.open(path)

    @property
    def tokens_a_step(self) -> int:
        return self.rows * self.length

    def model(self) -> torch.nn.Module:
        return build_model(self.shape, self.vocabulary, self.length, self.vocabulary - 1)

    def stream(self) -> PackedStream:
        tokens = self.steps * self.tokens_a_step
        return PackedStream(self.store, np.arange(self.store.n_documents), tokens, self.length)


def make_store(folder: Path, vocabulary: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    writer = StoreWriter(folder, vocabulary)
    for index in range(tokens // 400 + 1):
        writer.append(index, "a", 1000, rng.integers(0, vocabulary, 400))
    writer.finish("pool", vocabulary - 1, {})


def plain(setting: Setting) -> list[float]:
    """What one writes first: slices of the tokens, forward, backward, clip, step. Step times."""
    model, config = setting.model().train(), setting.config
    optimizer = adamw(model, config)
    tokens = torch.from_numpy(np.asarray(setting.store.all_tokens).astype(np.int64))
    times, size = [], setting.tokens_a_step
    for step in range(setting.steps):
        began = clock()
        part = tokens[step * size : (step + 1) * size + 1]
        inputs, targets = (x.view(setting.rows, setting.length) for x in (part[:-1], part[1:]))
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.view(-1, setting.vocabulary), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append(clock() - began)
    return times


def ours(setting: Setting, engine: str, out: Path, ranks: Ranks | None = None) -> list[float]:
    """Step times, of all that a step does, data and metrics included."""
    out.mkdir(parents=True, exist_ok=True)
    ticks = [clock()]
    setup = RunSetup(engine, "fp32", 0, ranks or Ranks(), out, "benchmark")
    hooks = Hooks(progress=lambda line: ticks.append(clock()))
    train(setting.model(), setting.stream(), setting.config, setup, hooks)
    return [after - before for before, after in pairwise(ticks)]


def engines(setting: Setting, rounds: int, folder: Path) -> None:
    times: dict[str, list[list[float]]] = {"plain": [], "torch": [], "deepspeed": []}
    for round_ in range(rounds):
        # The order turns, so that none always follows the same one.
        for name in list(times)[round_ % 3 :] + list(times)[: round_ % 3]:
            out = folder / f"{name}-{round_}"
            times[name].append(plain(setting) if name == "plain" else ours(setting, name, out))
    report(times, "plain", setting)


def report(times: dict[str, list[list[float]]], base: str, setting: Setting) -> None:
    # The first two steps of a run allocate.
    typical = {name: [statistics.median(r[2:]) for r in runs] for name, runs in times.items()}
    best = {name: min(min(r[2:]) for r in runs) for name, runs in times.items()}
    rate = setting.tokens_a_step / statistics.median(typical[base])
    print(f"{base}: {rate:.0f} tokens/s, {torch.get_num_threads()} threads")
    for name in times:
        ratios = [a / b for a, b in zip(typical[base], typical[name], strict=True)]
        if name != base:
            print(
                f"{name}: {statistics.median(ratios):.3f}x the speed of {base} "
                f"[{min(ratios):.3f} to {max(ratios):.3f}]; fastest steps "
                f"{best[base] / best[name]:.3f}x"
            )


def two_ranks(name: str, rows: int, steps: int, rounds: int, folder: Path) -> None:
    """Beside one rank, and beside two that wait for each other and send nothing: what the cores
    and their noise allow."""
    tokens = Setting(name, rows, steps, folder).tokens_a_step
    ways = {"one": 1, "two": 2, "apart": 1}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(rounds):
        for way in list(ways)[round_ % 3 :] + list(ways)[: round_ % 3]:
            out = folder / f"{way}-{round_}"
            jobs = [
                _start(name, rows, steps, out / str(job), ways[way])
                for job in range(1 + (way == "apart"))
            ]
            # Of one rank all steps count, of ranks apart the slower one of each step.
            times = [max(step) for step in zip(*(_times(*job) for job in jobs), strict=True)]
            both = 1 if way == "one" else 2
            rates[way].append(both * tokens / statistics.median(times[2:]))
    print(f"one rank: {statistics.median(rates['one']):.0f} tokens/s")
    for way, what in (("two", "two ranks"), ("apart", "two that wait and send nothing")):
        ratios = [b / a for a, b in zip(rates["one"], rates[way], strict=True)]
        print(
            f"{what}: {statistics.median(ratios):.3f}x [{min(ratios):.3f} to {max(ratios):.3f}]; "
            f"fastest rounds {max(rates[way]) / max(rates['one']):.3f}x"
        )


def _start(
    name: str, rows: int, steps: int, out: Path, world: int
) -> tuple[Path, list[subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    given = {"--model": name, "--rows": rows, "--steps": steps, "--rank-of": out}
    words = [sys.executable, __file__, *(str(word) for pair in given.items() for word in pair)]
    return out, [
        subprocess.Popen(words, env={**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(world)
    ]


def _times(out: Path, processes: list[subprocess.Popen[bytes]]) -> list[float]:
    assert [p.wait() for p in processes] == [0] * len(processes)
    return list(json.loads((out / "times.json").read_text()))


def _rank(name: str, rows: int, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.from_environment()
    setting = Setting(name, rows, steps, out.parent.parent, ranks.world_size)
    times = ours(setting, "torch", out, ranks)
    if ranks.rank == 0:
        (out / "times.json").write_text(json.dumps(times))
    close_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="4x128")
    parser.add_argument("--rows", type=int, default=0, help="a step and rank; 0: the model's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["engines", "ranks"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    global clock
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    torch.set_num_threads(asked.threads)
    if asked.rank_of:
        _rank(asked.model, asked.rows, asked.steps, asked.rank_of)
        return
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "ranks":
            setting = Setting(asked.model, asked.rows, asked.steps, Path(folder))
            engines(setting, asked.rounds, Path(folder))
        if asked.only != "engines":
            two_ranks(asked.model, asked.rows, asked.steps, asked.rounds, Path(folder))
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
