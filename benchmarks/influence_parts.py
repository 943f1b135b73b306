"""The parts of benchmarks/influence.py."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from influence_others import baseline_practice, captum_scores, dattri_scores, pairwise_dots
from torch import nn
from torch.nn import functional

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
from hpcscale.data.writer import StoreWriter
from hpcscale.influence.examples import DocumentExamples
from hpcscale.influence.gradients import direct_scores, example_features, mean_gradients
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.model.build import build_model

SMALL = Shape(layers=4, width=128, heads=4)
LARGE = Shape(layers=12, width=768, heads=12)
RATES = (1e-3, 7e-4, 3e-4)


def world(folder: Path, shape: Shape, vocabulary: int, length: int, documents: int) -> Any:
    """A model with random weights, and documents of ``length`` random tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, rng = StoreWriter(folder, vocabulary), np.random.default_rng(0)
    for index in range(documents):
        writer.append(index, "a", 4 * length, rng.integers(0, vocabulary, length))
    writer.finish("pool", vocabulary - 1, {})
    store = TokenStore.open(folder)
    model = build_model(shape, vocabulary, length, vocabulary - 1)
    return model, store, DocumentExamples(store, np.arange(documents), length)


def plain_pass(
    model: nn.Module,
    units: DocumentExamples,
    batch_tokens: int,
    device: str = "cpu",
    bf16: bool = False,
) -> None:
    """Forward and backward of training, weight gradients included, and nothing else."""
    model.train()
    for batch in units.batches(np.arange(units.count), batch_tokens):
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(input_ids=torch.from_numpy(batch.inputs).to(device)).logits
        targets = torch.from_numpy(batch.targets).to(device).flatten()
        functional.cross_entropy(logits.flatten(0, 1).float(), targets).backward()
    model.zero_grad(set_to_none=True)


def compare(
    ways: dict[str, Callable[[], object]], rounds: int, clock: str, device: str = "cpu"
) -> dict[str, float]:
    """Seconds and ratio to the first way, as a table; returns the median ratios."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1 if rounds > 1 else 1):
        for name, way in ways.items():
            began = now()
            way()
            if device != "cpu":
                torch.cuda.synchronize()
            if round_ or rounds == 1:  # the first of several rounds warms up
                spent[name].append(now() - began)
    first = next(iter(ways))
    print(f"| way | seconds | of `{first}` | range |\n|---|---|---|---|")
    ratios = {}
    for name, times in spent.items():
        each = [a / b for a, b in zip(times, spent[first], strict=True)]
        ratios[name] = statistics.median(each)
        print(
            f"| {name} | {statistics.median(times):.3f} | {ratios[name]:.2f}x | "
            f"{min(each):.2f} to {max(each):.2f} |",
            flush=True,
        )
    print()
    return ratios


def ways_of(model: nn.Module, units: DocumentExamples, batch_tokens: int) -> dict[str, Any]:
    cpu, everything = torch.device("cpu"), np.arange(units.count)
    mean = np.full((1, units.count), 1 / units.count)
    direction = mean_gradients(model, units, mean, device=cpu, batch_tokens=batch_tokens)
    roots = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    ways: dict[str, Any] = {
        "plain forward and backward": lambda: plain_pass(model, units, batch_tokens)
    }
    for rank, dimension in (("auto", 4096), ("auto", 1024), ("auto", 16384), (64, 4096)):
        sketch = Sketch(model, Projection(rank, dimension), cpu)  # type: ignore[arg-type]
        ways[f"dump, rank {rank}, {dimension}"] = lambda sketch=sketch: example_features(
            model, units, everything, sketch, batch_tokens=batch_tokens
        )
    default = Sketch(model, Projection(), cpu)
    ways["Adam-aware dump, the default"] = lambda: example_features(
        model, units, everything, default, scale=roots, batch_tokens=batch_tokens
    )
    ways["direct, exact"] = lambda: direct_scores(
        model, units, direction, device=cpu, batch_tokens=batch_tokens
    )
    return ways


def small(folder: Path, asked: Namespace) -> None:
    documents = 16 if asked.quick else 32
    print(f"4 layers x 128, V 2,048, {documents} documents of 128 tokens, batches of 8\n")
    model, _, units = world(folder, SMALL, 2048, 128, documents)
    compare(ways_of(model, units, 8 * 128), asked.rounds, asked.clock)


def large(folder: Path, asked: Namespace) -> None:
    length = 64 if asked.quick else 256
    print(f"GPT-2 124M (12 x 768, V 50,257), 4 documents of {length} tokens, batches of 2\n")
    model, _, units = world(folder, LARGE, 50257, length, 4)
    rounds = 1 if asked.quick else max(3, asked.rounds // 2)
    compare(ways_of(model, units, 2 * length), rounds, asked.clock)


def _states(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Three checkpoints: the weights, and the same with some noise."""
    torch.manual_seed(0)
    return [
        {k: v + 0.01 * i * torch.randn_like(v) for k, v in model.state_dict().items()}
        for i in range(len(RATES))
    ]


def exact_scores(
    model: nn.Module, states: Any, pool: DocumentExamples, queries: DocumentExamples, tokens: int
) -> Any:
    """Ours, the gradient of the mean query included."""
    cpu, mean = torch.device("cpu"), np.full((1, queries.count), 1 / queries.count)
    total = np.zeros(pool.count)
    for rate, state in zip(RATES, states, strict=True):
        model.load_state_dict(state)
        direction = mean_gradients(model, queries, mean, device=cpu, batch_tokens=tokens)
        found = direct_scores(model, pool, direction, device=cpu, batch_tokens=tokens)
        total += rate * found[:, 0]
    return total


def libraries(folder: Path, asked: Namespace) -> None:
    """Documents against the mean of the queries over three checkpoints."""
    n = asked.documents or (16 if asked.quick else 128)
    m = max(2, n // 4)
    print(f"{n} documents of 128 tokens against the mean of {m} queries, 3 checkpoints, 4 x 128\n")
    model, store, _ = world(folder, SMALL, 2048, 128, n + m)
    pool, queries = (
        DocumentExamples(store, which, 128) for which in (np.arange(n), np.arange(n, n + m))
    )
    states, tokens = _states(model), 8 * 128

    def floor() -> None:
        for state in states:
            model.load_state_dict(state)
            plain_pass(model, pool, tokens)

    model.eval()
    found: dict[str, Any] = {}

    def kept(name: str, way: Callable[[], Any] | None) -> Callable[[], None] | None:
        return None if way is None else lambda: found.__setitem__(name, way())

    ways: dict[str, Any] = {"plain forward and backward": floor}
    given = (model, states, RATES, pool, queries)
    ways["ours, exact"] = kept("ours", lambda: exact_scores(model, states, pool, queries, tokens))
    ways["pairwise dots"] = kept("pairwise dots", lambda: pairwise_dots(*given))
    for batch in (1, 16):
        name = f"captum TracInCP, batch {batch}"
        ways[name] = kept(name, captum_scores(*given, batch=batch))
    # Its work grows with the batches of documents, each of which asks all queries' gradients anew.
    ways["dattri TracIn, batch 32"] = kept("dattri", dattri_scores(*given, batch=32))
    missing = [name for name, way in ways.items() if way is None]
    ratios = compare({k: w for k, w in ways.items() if w}, max(1, asked.rounds // 3), asked.clock)
    for name in missing:
        print(f"{name}: not installed, and left out")
    for name, scores in found.items():
        if name != "ours":
            error = np.linalg.norm(scores - found["ours"]) / np.linalg.norm(found["ours"])
            print(f"{name}: scores within {error:.1e} of ours")
    for name, ratio in ratios.items():
        if name not in ("ours, exact", "plain forward and backward"):
            print(f"ours is {ratio / ratios['ours, exact']:.1f}x as fast as {name}")
    print()


def practice(folder: Path, asked: Namespace) -> None:
    """Dump and score beside the practice of keeping every gradient and dotting every pair."""
    n = asked.documents or (20 if asked.quick else 500)
    sizes = asked.queries or sorted({max(2, n // 5), max(2, n // 2), n})
    model, store, _ = world(folder, SMALL, 2048, 128, n + max(sizes))
    states, now = _states(model), time.process_time if asked.clock == "cpu" else time.perf_counter
    print(f"{n} documents x queries x 3 checkpoints, 4 x 128, once each\n")
    print("| queries | practice, s | dump and score, s | ratio | scores agree (Spearman) |")
    print("|---|---|---|---|---|")
    for m in sizes:
        pool, queries = (
            DocumentExamples(store, which, 128) for which in (np.arange(n), np.arange(n, n + m))
        )
        began = now()
        theirs = baseline_practice(model, states, RATES, pool, queries)
        middle = now()
        ours = sketched_scores(model, states, pool, queries)
        first, second = middle - began, now() - middle
        print(
            f"| {m} | {first:.1f} | {second:.1f} | {first / second:.1f}x | "
            f"{np.mean([spearman(a, b) for a, b in zip(ours.T, theirs.T, strict=True)]):.3f} |",
            flush=True,
        )
    print()


def sketched_scores(
    model: nn.Module, states: Any, pool: DocumentExamples, queries: DocumentExamples
) -> Any:
    total = np.zeros((pool.count, queries.count))
    for rate, state in zip(RATES, states, strict=True):
        model.load_state_dict(state)
        sketch = Sketch(model, Projection(), torch.device("cpu"))
        rows, columns = (
            example_features(model, u, np.arange(u.count), sketch, batch_tokens=1024)
            for u in (pool, queries)
        )
        total += rate * (rows @ columns.T).numpy()
    return total


def spearman(a: Any, b: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def memory(folder: Path, asked: Namespace) -> None:
    """Peak memory of a process that dumps n documents to a shard."""
    print("| documents dumped | peak memory of the process, MB |\n|---|---|")
    for n in (64, 256) if asked.quick else (256, 1024, 4096):
        code = f"import influence_parts as p; p.dump_alone({str(folder / str(n))!r}, {n})"
        here = Path(__file__).parent
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True
        )
        print(f"| {n} | {ran.stdout.strip()} |", flush=True)
    print()


def dump_alone(folder: str, n: int) -> None:
    from hpcscale.influence.dump import DumpOptions, dump_examples
    from hpcscale.train.distributed import Ranks

    model, _, units = world(Path(folder) / "store", SMALL, 2048, 32, n)
    sketch = Sketch(model, Projection(), torch.device("cpu"))
    dump_examples(
        model,
        units,
        (0, n),
        sketch,
        Path(folder) / "out",
        DumpOptions(batch_tokens=1024),
        ranks=Ranks(),
    )
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def gpu(folder: Path, asked: Namespace) -> None:
    """GPT-2 124M at 1,024 tokens in bf16: the same ways, peak memory, agreement with fp32."""
    device = torch.device(asked.device)
    shape, vocabulary, length, n = LARGE, 50257, 1024, 64
    if asked.quick:
        shape, vocabulary, length, n = SMALL, 2048, 128, 16
    tokens, on_gpu = 8 * length, device.type == "cuda"
    model, _, units = world(folder, shape, vocabulary, length, n)
    model.to(device)
    everything, mean = np.arange(n), np.full((1, n), 1 / n)
    sketch = Sketch(model, Projection(), device)
    (direction,) = mean_gradients(
        model, units, mean, device=device, precision="bf16", batch_tokens=tokens
    )

    def dump(precision: str) -> torch.Tensor:
        return example_features(
            model, units, everything, sketch, precision=precision, batch_tokens=tokens
        )

    def direct(precision: str) -> Any:
        return direct_scores(
            model, units, [direction], device=device, precision=precision, batch_tokens=tokens
        )[:, 0]

    ways: dict[str, Any] = {
        "plain forward and backward": lambda: plain_pass(model, units, tokens, device.type, True),
        "dump": lambda: dump("bf16"),
        "direct, exact": lambda: direct("bf16"),
    }
    print(f"{device}, bf16, {shape.layers} x {shape.width}, {n} documents of {length} tokens\n")
    compare(ways, asked.rounds, "wall" if on_gpu else asked.clock, device.type)
    for name, way in ways.items():
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            way()
            print(f"{name}: peak {torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
    a, b = (dump(precision).float().cpu().numpy() for precision in ("bf16", "fp32"))
    each = [spearman(x, y) for x, y in zip(a @ a.T, b @ b.T, strict=True)]
    print(f"dump: Spearman with fp32 {np.mean(each):.4f}, a document at a time")
    print(f"direct: Spearman with fp32 {spearman(direct('bf16'), direct('fp32')):.4f}\n")


PARTS: dict[str, Callable[[Path, Namespace], None]] = {
    "small": small,
    "large": large,
    "libraries": libraries,
    "practice": practice,
    "memory": memory,
    "gpu": gpu,
}
ON_CPU = ["small", "large", "libraries", "practice", "memory"]
