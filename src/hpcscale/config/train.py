"""How a cell is trained and evaluated."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from hpcscale.config.types import Count, Seconds, Section
from hpcscale.units import parse_count


def _parse_warmup(value: Any) -> int | str:
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*%\s*", value):
        if not 0 <= float(value.strip().rstrip("% ")) < 100:
            raise ValueError(f"a warm-up of {value} is not a share of the budget; write 0% to 99%")
        return value.strip().replace(" ", "")
    return parse_count(value)


Schedule = Literal["cosine", "constant", "wsd", "wsd-branch"]
#: Tokens, or a percentage of the token budget.
Warmup = Annotated[int | str, BeforeValidator(_parse_warmup)]


SinkName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class CheckpointConfig(Section):
    """How often training state is saved, whichever comes first, and which checkpoints are kept.

    These are the last ``keep``, and until the run ends those at every ``keep_every_steps`` steps
    and those that first reached one of ``keep_at_tokens``.
    """

    every: Seconds = "10m"  # type: ignore[assignment]
    every_steps: int | None = Field(default=None, ge=1)
    every_tokens: Count | None = None
    keep: int = Field(default=2, ge=1, description="how many of the last ones; 2, as one may break")
    keep_every_steps: int | None = Field(default=None, ge=1)
    keep_at_tokens: tuple[Count, ...] = ()

    def due(self, step: int, tokens: int, before: int) -> bool:
        """Whether to save after the step that took the run from ``before`` to ``tokens``."""
        every = self.every_tokens
        return (
            (self.every_steps is not None and step % self.every_steps == 0)
            or (every is not None and tokens // every > before // every)
            or self.lasting(step, tokens, before)
        )

    def lasting(self, step: int, tokens: int, before: int) -> bool:
        """Whether this checkpoint is kept when later ones are saved."""
        steps = self.keep_every_steps
        return (steps is not None and step % steps == 0) or any(
            before < mark <= tokens for mark in self.keep_at_tokens
        )


class TrainConfig(Section):
    """Training of one cell. ``global_batch`` is in tokens, ``micro_batch`` in sequences a rank."""

    pinned: ClassVar = frozenset(
        set(
            (
                "global_batch lr schedule warmup min_lr_ratio decay decay_shape weight_decay "
                "beta1 beta2 eps clip"
            ).split()
        )
    )

    global_batch: Count = 524_288
    micro_batch: int = Field(default=8, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    lr_scaling: Literal["none", "linear"] = "none"
    lr_reference_batch: Count | None = None
    schedule: Schedule = "cosine"
    warmup: Warmup = "5%"
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    decay: float = Field(default=0.2, gt=0, lt=1, description="share of the budget; wsd alone")
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0, description="gradient norm; 0: no clipping")
    epochs: int = Field(default=1, ge=1, description="allowed passes over the selection")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "torch", "deepspeed"] = "auto"
    zero: Literal["auto", 0, 1, 2, 3] = Field(
        default=1, description="ZeRO stage; auto: the lowest whose memory forecast fits"
    )
    offload: Literal["none", "optimizer"] = Field(
        default="none", description="what ZeRO keeps in host memory instead of the GPU's"
    )
    activation_checkpointing: bool = False
    compile: bool = False
    checkpoint: CheckpointConfig = CheckpointConfig()
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="where loss or gradient are not finite"
    )
    max_skipped: int = Field(default=3, ge=1, description="steps in a row that `skip` leaves out")
    spike_deviations: float = Field(
        default=6.0, ge=0, description="above the running median, for spikes.jsonl; 0: none"
    )
    sinks: Literal["auto"] | list[SinkName] = Field(
        default="auto", description="beside metrics.jsonl; auto: tensorboard, where installed"
    )

    @field_validator("warmup", mode="after")
    @classmethod
    def _branches_share_a_warmup(cls, value: int | str, info: ValidationInfo) -> int | str:
        if isinstance(value, str) and info.data.get("schedule") == "wsd-branch":
            raise ValueError(
                f"`schedule: wsd-branch` warms up once for all budgets, but {value} is another "
                "number of tokens for each; write tokens, for example `warmup: 100k` (or 0)"
            )
        return value

    @model_validator(mode="after")
    def _linear_scaling_has_a_reference(self) -> TrainConfig:
        if (self.lr_scaling == "linear") != (self.lr_reference_batch is not None):
            raise ValueError(
                "`lr_scaling: linear` and `lr_reference_batch: <tokens>` belong together: "
                "lr is then multiplied by global_batch / lr_reference_batch"
            )
        return self

    @model_validator(mode="after")
    def _an_engine_can_do_it(self) -> TrainConfig:
        if problem := self.engine_problem(self.precision):
            raise ValueError(problem)
        return self

    def engine_problem(self, precision: str) -> str | None:
        """Why no engine can train with these values, or None. ``precision`` may be ``auto``."""
        if self.offload != "none" and self.engine == "torch":
            return "`offload: optimizer` needs ZeRO; write `engine: deepspeed` (or `auto`)"
        if self.offload != "none" and self.zero == 0:
            return "`offload: optimizer` needs `zero: 1`, 2, 3 or auto, not 0"
        if self.engine == "deepspeed" and self.zero == 0 and precision in ("bf16", "fp16"):
            return (
                f"DeepSpeed cannot accumulate {precision} gradients in fp32 at `zero: 0`; write "
                "`zero: 1`, or `engine: torch` (or `auto`), which keeps fp32 weights under autocast"
            )
        return None

    @property
    def scaled_lr(self) -> float:
        """The peak learning rate at this global batch."""
        if self.lr_reference_batch is None:
            return self.lr
        return self.lr * self.global_batch / self.lr_reference_batch

    def warmup_tokens(self, budget: int) -> int:
        """Warm-up in tokens for a run of ``budget`` tokens."""
        if isinstance(self.warmup, int):
            return self.warmup
        return round(budget * float(self.warmup.rstrip("%")) / 100)

    def decay_start(self, budget: int) -> int:
        """Tokens seen when ``wsd`` begins to decay: the end of the last step that leaves at least
        ``decay`` of the budget.
        """
        # A share such as 0.1 has no exact double: 0.9 of ten steps are nine.
        steps = int(budget * (1 - self.decay) / self.global_batch + 1e-9)
        return steps * self.global_batch


class EvaluateConfig(Section):
    """How losses are measured; ``micro_batch`` changes speed and memory, never the loss."""

    micro_batch: int = Field(default=16, ge=1)
