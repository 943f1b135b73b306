"""What ``train`` is given beside a model, its data and the `train` section of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcscale.train.distributed import Ranks
from hpcscale.train.signals import LeadTime
from hpcscale.train.watch import Watcher


@dataclass(frozen=True)
class RunSetup:
    """How a run executes, and where its files are.

    engine: `torch` or `deepspeed`. precision: `fp32`, `bf16` or `fp16`. seed: of torch's random
    numbers. out: the run's directory, also of its checkpoints. key: of the task; checkpoints in
    ``out`` that carry another key are refused.
    """

    engine: str
    precision: str
    seed: int
    ranks: Ranks
    out: Path
    key: str


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Hooks:
    """What a run calls while it trains; none of them changes what it computes.

    stop: asked before each step. Once it is true on any rank, all ranks save and raise Preempted.
    progress: called on rank 0 with each line of metrics.jsonl. watchers: told of every pass and
    step, in their order; such a run cannot skip steps (``without_skips``). lead: notes the longest
    step and the longest save.
    """

    stop: Callable[[], bool] = _never
    progress: Callable[[dict[str, Any]], None] | None = None
    watchers: Sequence[Watcher] = ()
    lead: LeadTime = field(default_factory=LeadTime)


@dataclass(frozen=True)
class Segment:
    """The part of a run that is trained: by default, all of it.

    trunk: the checkpoint of another run over the same tokens, which the first attempt starts from.
    steps: the run ends after this step, counted from the start of the data, with a checkpoint.
    """

    trunk: Path | None = None
    steps: int | None = None


WHOLE_RUN = Segment()
