"""From our settings to a DeepSpeed config with every value written out.

Defaults of DeepSpeed moved between releases (gradient clipping, gradient accumulation dtype,
overflow checks); a run must not change with them.
"""

from __future__ import annotations

from typing import Any

from hpcscale.config.train import TrainConfig


def deepspeed_config(
    config: TrainConfig, precision: str, world_size: int, own_clipping: bool
) -> dict[str, Any]:
    """The dict for ``deepspeed.initialize``; the optimizer is torch's, given beside it.

    Accumulation is 1 here: the loop says which pass is a step's last, so that the last step of a
    budget may take fewer. ``own_clipping``: the engine clips, DeepSpeed must not.
    """
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": config.micro_batch * world_size,
        "gradient_clipping": 0.0 if own_clipping else config.clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {
            "enabled": precision == "fp16",
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": _zero(config.zero),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "dump_state": False,
        "steps_per_print": 2**31 - 1,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False},
    }


def _zero(stage: int) -> dict[str, Any]:
    values: dict[str, Any] = {"stage": stage}
    if stage:
        values |= {
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "allgather_partitions": True,
            "allgather_bucket_size": 500_000_000,
            "reduce_bucket_size": 500_000_000,
            "overlap_comm": False,
            "round_robin_gradients": False,
        }
    if stage == 3:
        values |= {
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "sub_group_size": 1_000_000_000,
        }
    return values
