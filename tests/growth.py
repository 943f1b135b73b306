"""How much a training process grows: python growth.py engine=deepspeed zero=2 ...

Prints the bytes of the peak beyond those of a process that has trained a tiny model, and of the
forecast. Steps have two passes, so that gradients lie there while activations do.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import torch

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.model.build import build_model
from hpcscale.model.forward import token_nll
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import EngineSetup
from hpcscale.train.engines import make_engine
from hpcscale.train.memory import ModelSize, forecast_memory

DEFAULTS: dict[str, Any] = {
    "engine": "torch",
    "zero": 0,
    "precision": "fp32",
    "offload": "none",
    "checkpointing": 0,
    "tokens": 1024,
}
LAYERS, WIDTH, VOCABULARY, ROWS = 4, 256, 8000, 2


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def main() -> None:
    torch.set_num_threads(1)
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    s: dict[str, Any] = {k: type(v)(given.get(k, v)) for k, v in DEFAULTS.items()}
    config = TrainConfig(
        zero=s["zero"],
        offload=s["offload"],
        micro_batch=ROWS,
        activation_checkpointing=bool(s["checkpointing"]),
    )
    ranks = Ranks()

    def train(shape: Shape, vocabulary: int, length: int) -> torch.nn.Module:
        model = build_model(shape, vocabulary, length, vocabulary - 1)
        engine = make_engine(s["engine"], EngineSetup(model, config, ranks, s["precision"], length))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for _ in range(2):
            for last in (False, True):
                ids = torch.randint(0, vocabulary, (ROWS, length))
                with engine.forward_pass(last):
                    loss = token_nll(engine.model, ids, ids).sum() / ids.numel()
                engine.backward(loss)
            engine.step(1e-3)
        return model

    length = s["tokens"] // ROWS
    train(Shape(layers=1, width=32, heads=4), 100, 16)
    gc.collect()
    before = status("VmRSS")
    model = train(Shape(layers=LAYERS, width=WIDTH, heads=4), VOCABULARY, length)
    grown = status("VmHWM") - before
    parameters = sum(int(getattr(p, "ds_numel", p.numel())) for p in model.parameters())
    told = forecast_memory(
        ModelSize(LAYERS, WIDTH, VOCABULARY, parameters),
        config,
        engine=s["engine"],
        stage=s["zero"],
        precision=s["precision"],
        world_size=1,
        sequence_length=length,
    )
    # On a CPU, what is offloaded lies in the same memory.
    print(grown, told.total + told.host)


if __name__ == "__main__":
    main()
