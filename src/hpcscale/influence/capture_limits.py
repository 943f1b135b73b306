"""Which proxy runs can capture gradients of their own backward. No torch: the planner calls it."""

from __future__ import annotations

from hpcscale.errors import ConfigError

_WAY_OUT = "or write `way: dump`, which takes gradients after the run"


def check_capture(*, zero: int | str, precision: str, compiled: bool) -> None:
    """``zero``: the stage of the engine that runs, 0 with torch. Raises ConfigError."""
    if zero in (3, "auto"):
        cuts = "cuts up" if zero == 3 else "may cut up"
        raise ConfigError(
            f"way `capture` needs whole modules on every rank, which train.zero {zero} {cuts}; "
            f"write train.zero: 0, 1 or 2, {_WAY_OUT}"
        )
    if compiled:
        raise ConfigError(
            "way `capture` hooks modules one by one, which train.compile: true fuses; write "
            f"train.compile: false, {_WAY_OUT}"
        )
    if precision == "fp16":
        raise ConfigError(
            "way `capture` would keep the overflows that a loss scale of train.precision fp16 "
            f"meets; write train.precision: bf16 or fp32, {_WAY_OUT}"
        )
