"""From our settings to an engine, and to a DeepSpeed config with every value written out.

Defaults of DeepSpeed moved between releases (gradient clipping, gradient accumulation dtype,
overflow checks); a run must not change with them. docs/zero.md says what each choice means.
"""

from __future__ import annotations

from typing import Any, Literal

from hpcscale.config.train import TrainConfig

#: Gradients are reduced this many at a time, or all at once where a model has fewer.
BUCKET = 500_000_000
#: Weights that stage 3 may hold whole at a time.
LIVE = 1_000_000_000


def resolve_engine(config: TrainConfig, precision: str, gpu: bool) -> Literal["torch", "deepspeed"]:
    """`auto`: DeepSpeed on GPUs, except for what it refuses; else torch."""
    if config.engine != "auto":
        return config.engine
    refused = config.model_copy(update={"engine": "deepspeed"}).engine_problem(precision)
    return "deepspeed" if gpu and not refused else "torch"


def stages_of(engine: str, precision: str, offload: str) -> tuple[int, ...]:
    """The ZeRO stages that ``zero: auto`` may choose from, the simplest first."""
    if engine == "torch":
        return (0,)
    return (0, 1, 2, 3) if precision == "fp32" and offload == "none" else (1, 2, 3)


def deepspeed_config(
    config: TrainConfig, precision: str, world_size: int, parameters: int
) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``; the optimizer is torch's, passed separately.

    ``config.zero`` is a number here. ``parameters``: their number in the model. Accumulation is 1:
    the loop tells DeepSpeed which pass is a step's last, so that the last step of a budget may have
    fewer. At stage 0 our engine clips, and DeepSpeed must not.
    """
    assert config.zero != "auto"
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": config.micro_batch * world_size,
        "gradient_clipping": config.clip if config.zero else 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {
            "enabled": precision == "fp16",
            "auto_cast": False,
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "consecutive_hysteresis": False,
            "min_loss_scale": 1,
            "fp16_master_weights_and_grads": False,
        },
        "bf16": {
            "enabled": precision == "bf16",
            "immediate_grad_update": False,
            "check_grad_overflow": True,
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "torch_autocast": {"enabled": False},
        "zero_optimization": _zero(config.zero, config.offload, parameters),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "steps_per_print": 2**31 - 1,
        "checkpoint": {
            "tag_validation": "Fail",
            "load_universal": False,
            "use_node_local_storage": False,
            "parallel_write": {"pipeline_stage": False},
        },
    }


def _zero(stage: int, offload: str, parameters: int) -> dict[str, Any]:
    values: dict[str, Any] = {"stage": stage}
    if stage:
        values |= {
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": min(BUCKET, parameters),
            "use_multi_rank_bucket_allreduce": True,
            "allgather_partitions": True,
            "allgather_bucket_size": BUCKET,
            "overlap_comm": False,
            "round_robin_gradients": False,
            "compute_grad_norm": True,
            "load_from_fp32_weights": True,
            "elastic_checkpoint": False,
            "ignore_unused_parameters": True,
            "legacy_stage1": False,
            "sub_group_size": 1_000_000_000,
            "zero_quantized_weights": False,
            "zero_quantized_nontrainable_weights": False,
            "zero_quantized_gradients": False,
            "zero_hpz_partition_size": 1,
            "offload_optimizer": _offloaded() if offload == "optimizer" else {"device": "none"},
            "offload_param": {"device": "none"},
        }
    if stage == 3:
        values |= {
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_model_persistence_threshold": 2**63 - 1,
            "stage3_gather_16bit_weights_on_model_save": False,
            "stage3_module_granularity_threshold": 0,
            "stage3_use_all_reduce_for_fetch_params": False,
            "stage3_allgather_sequential": False,
            "memory_efficient_linear": True,
        }
    return values


def _offloaded() -> dict[str, Any]:
    """Adam's states and the fp32 weights in pinned host memory; torch's fused AdamW updates them,
    so that no CPUAdam has to be compiled."""
    return {
        "device": "cpu",
        "pin_memory": True,
        "ratio": 1.0,
        "fast_init": False,
        "buffer_count": 4,
        "pipeline_read": False,
        "pipeline_write": False,
        "super_offload": False,
    }
