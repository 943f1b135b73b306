"""Forecast, as text, the memory that training takes per rank."""

from __future__ import annotations

from hpcscale.config.profile import SiteProfile
from hpcscale.model.sizes import model_size
from hpcscale.opened import Plan, Sweep
from hpcscale.plan.resources import world_size
from hpcscale.train.memory import USABLE, MemoryForecast, forecast_stages, lowest_fitting
from hpcscale.train.zero import resolve_engine
from hpcscale.units import format_bytes, format_rate

#: GiB, from the vendors' data sheets; the smaller where a type is sold with two sizes. A
#: profile's ``gpu_memory`` takes precedence.
GPU_MEMORY = {
    "V100": 16,
    "A40": 48,
    "A100": 40,
    "L40S": 48,
    "H100": 80,
    "H200": 141,
    "MI250X": 64,
    "MI300X": 192,
}


def gpu_memory(profile: SiteProfile) -> int | None:
    """Bytes of one GPU of the site; None where neither its memory nor its type is known."""
    if profile.gpu_memory is not None:
        return profile.gpu_memory
    size = GPU_MEMORY.get((profile.gpu_type or "").upper())
    return None if size is None else size << 30


def memory_lines(sweep: Sweep, plan: Plan) -> list[str]:
    """The forecast for each possible ZeRO stage, and which one ``zero: auto`` takes; empty for a
    model whose size is unknown before it is loaded."""
    config, train = sweep.config, sweep.config.train
    size = model_size(config.model, config.tokenizer.train)
    if size is None or not any(task.stage == "train" for task in plan.start):
        return []
    asked = sweep.resources("train")
    engine = resolve_engine(train, sweep.precision, gpu=bool(asked.gpus))
    stages = forecast_stages(
        size,
        train,
        engine=engine,
        precision=sweep.precision,
        world_size=world_size(asked),
        sequence_length=config.data.sequence_length,
    )
    memory = gpu_memory(sweep.profile) if asked.gpus else None
    what = (
        f"{format_rate(size.parameters)} parameters, {train.micro_batch} x "
        f"{config.data.sequence_length} tokens, {engine}"
    )
    lines = [f"memory a training rank: {_stages_text(engine, stages)} ({what})"]
    if memory is not None:
        lines += _choice(train.zero, stages, memory)
    return lines


def _stages_text(engine: str, stages: dict[int, MemoryForecast]) -> str:
    if engine == "torch":
        return f"about {format_bytes(stages[0].total)}"
    return "about " + ", ".join(f"{format_bytes(f.total)} at zero {s}" for s, f in stages.items())


def _choice(zero: int | str, stages: dict[int, MemoryForecast], memory: int) -> list[str]:
    chosen = lowest_fitting(stages, memory)
    stage = chosen if zero == "auto" or int(zero) not in stages else int(zero)
    size = f"the {format_bytes(memory)} of a GPU"
    lines = [f"  zero auto takes {chosen} on {size}"] if zero == "auto" else []
    if stages[stage].total > USABLE * memory:
        lines.append(
            f"  zero {stage} may not fit into {size}: lower train.micro_batch, or write "
            "activation_checkpointing: true" + (" or zero: auto" if chosen != stage else "")
        )
    return lines
