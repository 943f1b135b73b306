"""A small training run as a script, one process a rank: what several test folders start.

python -m training OUT key=value ...     (RANK, WORLD_SIZE, MASTER_* set)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DEFAULTS = {
    "engine": "torch",
    "precision": "fp32",
    "packing": "concat",
    "tokens": 2500,
    "global_batch": 128,
    "micro_batch": 1,
    "zero": 0,
    "clip": 0.5,
    "every_steps": 0,
    "keep": 2,
    "keep_every": 0,
    "keep_at": 0,
    "seed": 0,
    "stop_at": 0,
    "lr": 3e-3,
    "key": "key",
    "offload": "none",
    "snapshots": 0,
    "schedule": "cosine",
    "warmup": "10%",
    "trunk": "",
    "steps": 0,
    "skip": 0,
    "poison": "",
    "capture": "",
    "unit": "document",
    "rank": 0,
    "dimension": 0,
}
VOCABULARY, LENGTH = 300, 16


def make_store(folder: Path, seed: int = 0, documents: int = 120) -> None:
    """Documents whose tokens follow from each other, so that there is something to learn."""
    from hpcscale.data.writer import StoreWriter

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    writer = StoreWriter(folder, VOCABULARY)
    for index in range(documents):
        start = int(rng.integers(0, 250))
        body = (start + np.arange(int(rng.integers(4, 45))) * 7) % 299
        tokens = np.append(body, VOCABULARY - 1)
        writer.append(1000 + index, ("even", "odd")[index % 2], 3 * len(tokens), tokens)
    writer.finish("pool", VOCABULARY - 1, {})


def run_ranks(
    out: Path,
    world: int,
    check: bool = True,
    timeout: float = 240,
    module: str = "training",
    **settings: Any,
) -> dict[str, Any]:
    """Train on ``world`` ranks; what rank 0 wrote, with the metrics as ``lines``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    shared = {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE),
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(out), *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    # All at once: a rank whose pipe is full would stop, and the others wait for it.
    with ThreadPoolExecutor(world) as readers:
        outputs = list(readers.map(lambda p: p.communicate(timeout=timeout)[0], processes))
    if check:
        for process, output in zip(processes, outputs, strict=True):
            assert process.returncode == 0, output
    return {"codes": [p.returncode for p in processes], "output": "\n".join(outputs)} | read(out)


def read(out: Path) -> dict[str, Any]:
    metrics = out / "metrics.jsonl"
    lines = [json.loads(x) for x in metrics.read_text().splitlines()] if metrics.exists() else []
    result = out / "result.json"
    return {"lines": lines} | (json.loads(result.read_text()) if result.exists() else {})


def settings_of(**given: Any) -> dict[str, Any]:
    """The defaults with what was given, in the types of the defaults."""
    assert set(given) <= set(DEFAULTS), given
    return {k: type(v)(given.get(k, v)) for k, v in DEFAULTS.items()}


def prepare(out: Path, s: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The model, the stream and the config of a run in ``out``, beside its store."""
    from hpcscale.config.model import Shape
    from hpcscale.config.train import CheckpointConfig, TrainConfig
    from hpcscale.data.packing import PackedStream
    from hpcscale.data.store import TokenStore
    from hpcscale.model.build import build_model

    store = TokenStore.open(out.parent / "store")
    stream = PackedStream(
        store, np.arange(store.n_documents), int(s["tokens"]), LENGTH, s["packing"]
    )
    config = TrainConfig(
        global_batch=s["global_batch"],
        micro_batch=s["micro_batch"],
        lr=s["lr"],
        zero=s["zero"],
        offload=s["offload"],
        clip=s["clip"],
        warmup=s["warmup"],
        schedule=s["schedule"],
        on_nonfinite="skip" if s["skip"] else "stop",
        max_skipped=s["skip"] or 1,
        checkpoint=CheckpointConfig(
            every_steps=s["every_steps"] or None,
            keep=s["keep"],
            keep_every_steps=s["keep_every"] or None,
            keep_at_tokens=(s["keep_at"],) if s["keep_at"] else (),
        ),
    )
    model = build_model(Shape(layers=2, width=32, heads=2), VOCABULARY, LENGTH, VOCABULARY - 1)
    return model, stream, config


def watchers_of(
    out: Path, model: Any, stream: Any, config: Any, ranks: Any, s: dict[str, Any]
) -> list[Any]:
    """The watchers that the settings ask for."""
    from hpcscale.influence.capture import Capture
    from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
    from hpcscale.influence.sketch import Projection
    from hpcscale.influence.snapshots import Snapshots

    found: list[Any] = []
    if s["snapshots"]:
        intervals = CheckpointSchedule.of(config, stream.n_tokens, s["snapshots"])
        found.append(Snapshots(out / "snapshots", model, config, intervals, ranks))
    if s["capture"]:
        intervals = CheckpointSchedule.of(config, stream.n_tokens, s["snapshots"] or 2)
        projection = Projection(s["rank"] or None, s["dimension"] or None)
        ids = stream_ids(out)
        found.append(
            Capture(
                out / "capture",
                stream,
                ids,
                projection,
                intervals,
                ranks,
                unit=s["unit"],
                dtype=s["capture"],
            )
        )
    return found


def asked_of(s: dict[str, Any], out: Path, ranks: Any) -> tuple[Any, Any]:
    """The setup of a run, and the segment of it that is trained."""
    from hpcscale.train.options import RunSetup, Segment

    setup = RunSetup(s["engine"], s["precision"], s["seed"], ranks, out, s["key"])
    return setup, Segment(Path(s["trunk"]) if s["trunk"] else None, s["steps"] or None)


def stream_ids(out: Path) -> Any:
    """The id of each document of the stream, uint64."""
    from hpcscale.data.store import TokenStore

    return np.asarray(TokenStore.open(out.parent / "store").ids)


def finish(watchers: list[Any]) -> None:
    """What is sealed when a run is over."""
    for watcher in watchers:
        if hasattr(watcher, "seal"):
            watcher.seal()


def poisoned(stream: Any, rows: list[int]) -> Any:
    """``token_nll`` with an infinite loss in these rows of the stream."""
    import torch

    from hpcscale.model.forward import token_nll

    bad = [torch.from_numpy(stream.rows(row, row + 1).inputs) for row in rows]

    def nll(model: Any, inputs: Any, *more: Any) -> Any:
        found = token_nll(model, inputs, *more)
        hit = torch.stack([(inputs == row).all(1) for row in bad]).any(0)
        return torch.where(hit.unsqueeze(1), torch.inf, found)

    return nll


def train_here(
    out: Path, watchers: list[Any] | None = None, lead: Any = None, **given: Any
) -> list[dict[str, Any]]:
    """One rank, in this process; the metrics. ``stop_at``: Preempted is raised there."""
    import torch

    from hpcscale.train.distributed import Ranks
    from hpcscale.train.loop import train
    from hpcscale.train.options import Hooks
    from hpcscale.train.signals import LeadTime

    s = settings_of(**given)
    out.mkdir(parents=True, exist_ok=True)
    model, stream, config = prepare(out, s)
    if watchers is None:
        watchers = watchers_of(out, model, stream, config, Ranks(), s)
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return bool(s["stop_at"]) and len(seen) > s["stop_at"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        hooks = Hooks(stop=stop, watchers=watchers, lead=lead or LeadTime())
        setup, segment = asked_of(s, out, Ranks())
        train(model, stream, config, setup, hooks, segment)
        finish(watchers)
    finally:
        torch.set_num_threads(threads)
        for watcher in watchers:
            if hasattr(watcher, "close"):
                watcher.close()
    lines: list[dict[str, Any]] = read(out)["lines"]
    return lines


def main() -> None:
    import torch

    from hpcscale.data.store import TokenStore
    from hpcscale.errors import HpcscaleError, Preempted
    from hpcscale.evaluate.loss import evaluate
    from hpcscale.model.build import load_model, save_model
    from hpcscale.train.distributed import Ranks, close_group, skip_teardown
    from hpcscale.train.loop import train
    from hpcscale.train.options import Hooks

    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    s = settings_of(**dict(word.split("=", 1) for word in sys.argv[2:]))
    model, stream, config = prepare(out, s)
    if s["poison"]:
        import hpcscale.train.loop as loop

        loop.token_nll = poisoned(stream, [int(row) for row in s["poison"].split(",")])
    ranks = Ranks.from_environment()
    seen: list[int] = []

    def stop() -> bool:
        # One rank alone is told, and all must agree.
        seen.append(1)
        return (
            bool(s["stop_at"]) and ranks.rank == ranks.world_size - 1 and len(seen) > s["stop_at"]
        )

    watchers = watchers_of(out, model, stream, config, ranks, s)
    try:
        setup, segment = asked_of(s, out, ranks)
        hooks = Hooks(stop=stop, watchers=watchers)
        result = train(model, stream, config, setup, hooks, segment)
    except (HpcscaleError, Preempted) as error:
        print(f"{type(error).__name__}: {error}")
        skip_teardown(error.exit_code)
        sys.exit(error.exit_code)
    finish(watchers)
    if ranks.rank == 0:
        save_model(model, out / "model", result.weights)
    ranks.barrier()
    loaded = load_model(out / "model")
    measured = evaluate(
        loaded,
        TokenStore.open(out.parent / "store"),
        sequence_length=LENGTH,
        packing=s["packing"],
        micro_batch=4,
        ranks=ranks,
    )
    if ranks.rank == 0:
        digest = sum(float(p.detach().double().abs().sum()) for p in loaded.parameters())
        values = {
            "eval_loss": measured.loss,
            "digest": digest,
            "train_loss": result.train_loss,
            "tokens": result.tokens,
            "steps": result.steps,
        }
        (out / "result.json").write_text(json.dumps(values))
    close_group()


if __name__ == "__main__":
    main()
