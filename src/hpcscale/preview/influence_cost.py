"""Forecast the disk, memory and time that influence takes, and check the free disk space."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcscale.atomic import read_done
from hpcscale.config.data import Role
from hpcscale.model.sizes import flops_per_token, model_size
from hpcscale.opened import Plan, Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.kinds import BLOCK, DIRECT, GRADIENTS, PRETRAIN, PROXY
from hpcscale.plan.resources import world_size
from hpcscale.plan.specs import DirectSpec, GradientsSpec, ProxySpec
from hpcscale.rundir.reading import facts_of_kind
from hpcscale.units import format_bytes, format_duration, format_rate

#: Tokens of a document, while its store does not exist: about C4's mean.
ASSUMED_TOKENS = 480
#: Bytes of a stored number.
_ITEM = {"fp16": 2, "bf16": 2, "fp32": 4}
#: Bytes of a row besides its gradient: norm and ordinal.
_BESIDE = 12
#: Bytes of a process that has imported torch.
_PROCESS = 600 << 20
#: Bytes of the buffers of rows and wide sketches (influence/dump.py, influence/gradients.py).
_BUFFERS = 768 << 20
#: Float32 activations that a backward pass keeps per block and token, as a multiple of the width.
_ACTIVATIONS = 34
#: The share of a disk's free bytes that a store may take.
_USABLE = 0.95


@dataclass(frozen=True)
class Forecast:
    """The gradients to be written. dimension, row_bytes and memory are None where the model's size
    is unknown. seconds: of one task; None where no rate is known. rate: what the time is based on.
    assumed: whether the number of documents is an assumption."""

    dimension: int | None
    row_bytes: int | None
    rows: int
    tasks: Counter[str]
    memory: int | None
    seconds: float | None
    rate: str
    assumed: bool

    @property
    def store_bytes(self) -> int | None:
        return None if self.row_bytes is None else self.row_bytes * self.rows


_KINDS = (PROXY, GRADIENTS, DIRECT, BLOCK)


def forecast(sweep: Sweep, plan: Plan) -> Forecast | None:
    """None where no influence task will start."""
    tasks = [task for task in plan.start if task.kind in _KINDS]
    if not tasks:
        return None
    config = sweep.config
    dimension = _dimension(sweep)
    counts = {role: _documents(sweep, role) for role in config.data.roles()}
    rows = 0
    for task in tasks:
        if isinstance(task.spec, GradientsSpec):
            rows += counts[_role(task)][0] // task.spec.shard[1]
        elif isinstance(task.spec, ProxySpec) and task.spec.capture:
            rows += _captured_rows(sweep, task.spec, counts["pool"][0])
    row_bytes = None
    if dimension is not None:
        row_bytes = dimension * _ITEM[config.influence.dtype] + _BESIDE
    seconds, rate = _time(sweep, [t for t in tasks if t.kind in (GRADIENTS, DIRECT)])
    return Forecast(
        dimension,
        row_bytes,
        rows,
        Counter(task.kind.name for task in tasks),
        _memory(sweep, tasks),
        seconds,
        rate,
        any(assumed for _, assumed in counts.values()),
    )


def forecast_lines(sweep: Sweep, plan: Plan) -> list[str]:
    """The forecast as text; empty where there is none."""
    found = forecast(sweep, plan)
    if found is None:
        return []
    named = ", ".join(f"{count} {kind}" for kind, count in found.tasks.items())
    lines = [f"influence: {named} tasks"]
    if found.rows:
        if found.row_bytes is None or found.store_bytes is None:
            lines.append(f"  gradients: {found.rows} rows, whose size depends on the model")
        else:
            about = "about " if found.assumed else ""
            lines.append(
                f"  gradients: {format_bytes(found.row_bytes)} a document and checkpoint "
                f"({found.dimension} numbers), {about}{found.rows} rows, "
                f"{format_bytes(found.store_bytes)} in all; "
                f"{format_bytes(_free(sweep.run_dir))} free"
            )
    if found.memory is not None:
        lines.append(f"  memory: about {format_bytes(found.memory)} a rank at its peak")
    if found.seconds is not None:
        lines.append(f"  time: about {format_duration(found.seconds)} a task, {found.rate}")
    elif found.tasks["gradients"] or found.tasks["direct"]:
        lines.append("  time: unknown until a task of this sweep has trained or scored here")
    return lines


def disk_problem(sweep: Sweep, plan: Plan) -> str | None:
    """Why the gradients do not fit on the disk, and a dimension that does; None where they fit."""
    found = forecast(sweep, plan)
    if found is None or not found.store_bytes:
        return None
    free = int(_free(sweep.run_dir) * _USABLE)
    if found.store_bytes <= free:
        return None
    fitting = (free // found.rows - _BESIDE) // _ITEM[sweep.config.influence.dtype]
    remedy = (
        f"write `influence: {{projection: {{dimension: {fitting}}}}}` or less"
        if fitting >= 1
        else "no dimension would fit"
    )
    return (
        f"{sweep.path}: gradients of {found.rows} rows x {found.dimension} numbers take "
        f"{format_bytes(found.store_bytes)}, but {sweep.run_dir} has only {format_bytes(free)} "
        f"free for them; {remedy}, or another `root`, or `strategy: on-the-fly`, which does not "
        "store gradients"
    )


def _free(run_dir: Path) -> int:
    """Bytes that this user may still write where the run directory is or will be."""
    place = run_dir
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _dimension(sweep: Sweep) -> int | None:
    config = sweep.config
    if config.influence.projection.dimension is not None:
        return config.influence.projection.dimension
    size = model_size(config.model, config.tokenizer.train)
    return None if size is None else round(size.parameters)


def _documents(sweep: Sweep, role: Role) -> tuple[int, bool]:
    """Documents (or packed rows) of a store, and whether that is an assumption."""
    config, task = sweep.config, sweep.tasks.shared.stores[role]
    done = read_done(sweep.run_dir / task.id, task.key)
    counts = done["facts"]["counts"] if done else None
    tokens = counts["tokens"] if counts else config.data.roles()[role].tokens or 0
    if config.influence.unit == "sequence":
        return -(-tokens // config.data.sequence_length), counts is None
    return (int(counts["documents"]), False) if counts else (tokens // ASSUMED_TOKENS, True)


def _captured_rows(sweep: Sweep, spec: ProxySpec, documents: int) -> int:
    """One row per packed row, and one more per document that begins inside a packed row."""
    rows = -(-spec.tokens // sweep.config.data.sequence_length)
    if sweep.config.influence.unit == "sequence":
        return int(rows)
    share = spec.tokens / max(sweep.config.data.pool.tokens or 1, 1)
    return int(rows + documents * min(1.0, share))


def _memory(sweep: Sweep, tasks: Sequence[AnyTask]) -> int | None:
    """Peak bytes of the largest rank that computes gradients: weights, Adam's metric, the logits
    and activations of a batch, and buffers; None where the model's size is unknown."""
    config = sweep.config
    size = model_size(config.model, config.tokenizer.train)
    if size is None or not any(task.kind in (GRADIENTS, DIRECT) for task in tasks):
        return None
    adam = any(_holds_adam(task) for task in tasks)
    direct = any(task.kind is DIRECT for task in tasks)
    batch = max(config.influence.batch_tokens, config.data.sequence_length)
    logits = 3 * 4 * batch * size.vocabulary
    activations = 4 * _ACTIVATIONS * batch * size.width * size.layers
    weights = 4 * size.parameters * (1 + adam + 2 * direct)
    return round(_PROCESS + _BUFFERS + weights + logits + activations)


def _role(task: AnyTask) -> Role:
    """The role of the store whose gradients a task computes."""
    if task.kind is DIRECT:
        return "pool"
    (store,) = task.inputs["store"]
    role: Role = store.spec.role
    return role


def _holds_adam(task: AnyTask) -> bool:
    """Whether a task holds Adam's metric in memory."""
    spec = task.spec
    if isinstance(spec, GradientsSpec):
        return spec.power > 0
    return isinstance(spec, DirectSpec) and spec.request.preconditioner == "adam"


def _time(sweep: Sweep, tasks: Sequence[AnyTask]) -> tuple[float | None, str]:
    """Seconds of one task, and their basis: tasks done in this sweep, or matrix products here."""
    config = sweep.config
    if not tasks:
        return None, ""
    query = config.data.query.tokens if config.data.query else 0
    largest = max(
        ((config.data.pool.tokens or 0) if _role(task) == "pool" else query or 0)
        / task.spec.shard[1]
        for task in tasks
    )
    tokens = largest / world_size(sweep.resources("dump"))
    measured = _measured_rate(sweep)
    if measured is not None:
        rate, what = measured
        return tokens / rate, f"at the {format_rate(rate)} tokens/s a rank of {what}"
    flops = flops_per_token(config.model, config.tokenizer.train, config.data.sequence_length)
    if not sweep.backend.here or flops is None:
        return None, ""
    speed = _gemm_rate()
    return tokens * flops / speed, (
        f"at least: this machine multiplies matrices at {format_rate(speed)} FLOP/s"
    )


def _measured_rate(sweep: Sweep) -> tuple[float, str] | None:
    """Tokens per second and rank of gradient tasks done in this sweep, or else of trainings."""
    for kind, folder in ((GRADIENTS, "influence"), (PROXY, "influence"), (PRETRAIN, "base")):
        rates = []
        for facts in facts_of_kind(sweep.run_dir, folder, kind.name):
            if facts.get("tokens_per_second"):
                rates.append(facts["tokens_per_second"] / facts.get("world_size", 1))
        if rates:
            return sorted(rates)[len(rates) // 2], f"{kind.name} tasks done here"
    return None


def _gemm_rate() -> float:
    """FLOP/s of this machine in float32, measured for 0.1 s."""
    import numpy as np

    a = np.ones((1024, 1024), np.float32)
    a @ a
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < 0.1:
        a @ a
        count += 1
    return count * 2 * 1024.0**3 / (time.perf_counter() - begun)
