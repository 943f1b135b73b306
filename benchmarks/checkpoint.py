"""What checkpoints cost a training: the stall of a save, and bandwidth beside the disk's own.

python benchmarks/checkpoint.py [--model 124m|small] [--rounds 5] [--folder .]

Alternating, medians of all rounds. A step is one optimizer step of --rows rows of 128 tokens; a
stall is the time that `save` takes from the step loop, a later step boundary's sealing included.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hpcscale.config.model import Shape
from hpcscale.config.train import CheckpointConfig, TrainConfig
from hpcscale.model.build import build_model
from hpcscale.train.checkpoint import Checkpoints, Origin, Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine, EngineSetup
from hpcscale.train.engines import make_engine
from hpcscale.train.restore import restore
from hpcscale.train.tag_files import tags_in

SHAPES = {
    "124m": (Shape(layers=12, width=768, heads=12), 50_257),
    "small": (Shape(layers=4, width=256, heads=4), 8_192),
}
LENGTH, CHUNK = 128, 1 << 24


def step(engine: Engine, batch: torch.Tensor) -> None:
    with engine.forward_pass(True):
        loss = engine.model(input_ids=batch, labels=batch, use_cache=False).loss
    engine.backward(loss)
    engine.step(1e-4)


def timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def write_plainly(path: Path, size: int) -> None:
    """As `dd bs=16M conv=fsync` writes."""
    chunk = os.urandom(CHUNK)
    with open(path, "wb") as handle:
        for _ in range(size // CHUNK):
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())


def read_plainly(path: Path) -> None:
    with open(path, "rb", buffering=0) as handle:
        buffer = bytearray(CHUNK)
        while handle.readinto(buffer):
            pass


def forget(folder: Path) -> None:
    """Drop what the page cache holds of the files; a host's own cache may still serve them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def boundary(checkpoints: Checkpoints) -> None:
    """What the loop does between steps."""
    checkpoints.advance(checkpoints.poll())


def one_round(
    engine: Engine, batch: torch.Tensor, checkpoints: Checkpoints, number: int, folder: Path
) -> dict[str, float]:
    found = {"step": statistics.median(timed(lambda: step(engine, batch)) for _ in range(3))}
    position = Position(number, number, 0.0)
    stall = timed(lambda: checkpoints.save(engine, position))
    found["save call"] = stall
    # The steps that go on while it is written, the boundaries between them, and the rest.
    during = []
    while checkpoints._save is not None and checkpoints._save.sealed is None:
        during.append(timed(lambda: step(engine, batch)))
        stall += timed(lambda: boundary(checkpoints))
    found["step while writing"] = statistics.median(during)
    checkpoints.finish()
    found["stall"] = stall
    copies = checkpoints._staging
    found["copy"] = timed(lambda: copies.copy(engine, torch.device("cpu")))

    def save() -> None:
        checkpoints.save(engine, position)
        checkpoints.finish()

    found["save"] = timed(save)
    tag = checkpoints.folder / tags_in(checkpoints.folder)[-1]
    size = sum(path.stat().st_size for path in tag.iterdir())
    found["plain write"] = timed(lambda: write_plainly(folder / "plain", size))
    forget(folder)
    found["plain read"] = timed(lambda: read_plainly(folder / "plain"))
    forget(folder)
    found["load"] = timed(
        lambda: restore(engine, checkpoints.folder, checkpoints.origin, checkpoints.ranks)
    )
    data = memoryview(bytearray(1 << 28))
    found["hash"] = timed(lambda: hashlib.sha256(data)) * size / len(data)
    return {**found, "size": float(size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="124m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    asked = parser.parse_args()
    shape, vocabulary = SHAPES[asked.model]
    ranks = Ranks()
    model = build_model(shape, vocabulary, LENGTH, vocabulary - 1)
    setup = EngineSetup(model, TrainConfig(), ranks, "fp32", LENGTH)
    engine = make_engine("torch", setup)
    batch = torch.randint(0, vocabulary, (asked.rows, LENGTH))
    step(engine, batch)
    rounds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        checkpoints = Checkpoints(
            folder / "checkpoints", Origin("benchmark"), CheckpointConfig(keep=1), ranks
        )
        for number in range(asked.rounds + 1):
            found = one_round(engine, batch, checkpoints, number + 1, folder)
            for key, value in found.items():
                if number:  # the first round makes the buffers
                    rounds[key].append(value)
                elif key in ("save call", "step"):
                    print(f"first round, {key}: {value:.3f} s")
        checkpoints.close()
    report({key: statistics.median(values) for key, values in rounds.items()}, rounds)


def report(middle: dict[str, float], rounds: dict[str, list[float]]) -> None:
    size = middle["size"]
    print(f"state {size / 1e9:.3f} GB; load average {os.getloadavg()[0]:.1f}")
    for key in ("step", "step while writing", "copy", "save call", "stall", "hash"):
        low, high = min(rounds[key]), max(rounds[key])
        print(f"{key:20} {middle[key]:8.3f} s [{low:.3f} to {high:.3f}]")
    beside = [
        max(0.0, s - c) / t
        for s, c, t in zip(rounds["stall"], rounds["copy"], rounds["step"], strict=True)
    ]
    print(f"stall beside a copy: {statistics.median(beside):.1%} of a step")
    for key, own in (("save", "plain write"), ("load", "plain read")):
        ratios = [b / a for a, b in zip(rounds[key], rounds[own], strict=True)]
        print(
            f"{key:5} {size / middle[key] / 1e6:6.0f} MB/s, disk {size / middle[own] / 1e6:6.0f} "
            f"MB/s: {statistics.median(ratios):.2f}x of it [{min(ratios):.2f} to {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
