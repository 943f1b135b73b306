"""Replace ``auto`` in resources and precision by values for the site or this machine."""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.config.resources import Resources, StageName
from hpcscale.config.sweep import SweepConfig
from hpcscale.errors import ConfigError

#: Stages that run as one CPU process, and the cores that such a process can use.
_LIGHT = {"tokenizer": 16, "data": 16, "select": 1, "analyse": 1}


@dataclass(frozen=True)
class Machine:
    """What one node offers. ``side_by_side``: whether tasks of one sweep share this node.
    ``memory``: bytes."""

    gpus: int
    cores: int | None
    side_by_side: bool
    memory: int | None = None


def resolve(
    config: SweepConfig, stage: StageName, machine: Machine, tasks_of_stage: int
) -> Resources:
    """The stage's resources with every ``auto`` replaced.

    Cores are divided by the number of all tasks of the stage, not of those still to run, so that
    a resumed task computes with as many threads as before. Raises ConfigError for more GPUs or
    nodes than this machine has.
    """
    asked = config.resources.of(stage)
    if asked.gpus == "auto":
        gpus = min(1, machine.gpus) if machine.side_by_side else machine.gpus
    else:
        gpus = int(asked.gpus)
    if asked.gpus != "auto" and machine.side_by_side and gpus > machine.gpus:
        raise ConfigError(
            f"resources.{stage}.gpus asks for {gpus} GPUs, this machine has {machine.gpus}; "
            f"run on the cluster (--executor slurm) or add --set resources.{stage}.gpus=auto"
        )
    if machine.side_by_side and asked.nodes > 1:
        raise ConfigError(
            f"resources.{stage}.nodes asks for {asked.nodes} nodes, the local executor has one; "
            f"run on the cluster (--executor slurm) or add --set resources.{stage}.nodes=1"
        )
    per_node = gpus or asked.ranks
    if asked.cpus != "auto":
        cpus = int(asked.cpus)
    else:
        neighbours = max(1, tasks_of_stage) if machine.side_by_side else 1
        cores = machine.cores or per_node
        cpus = max(1, cores // (per_node * min(neighbours, max(1, cores // per_node))))
        if stage in _LIGHT:
            # They need part of a node; on this machine, tokenizer and data run alone.
            cpus = min(cores, _LIGHT[stage])
    memory = asked.memory if stage in _LIGHT else asked.memory or _share(machine, gpus)
    update = {"gpus": gpus, "cpus": cpus, "ranks": per_node, "memory": memory}
    return asked.model_copy(update=update)


def _share(machine: Machine, gpus: int) -> int | None:
    """The memory of a node, or the part that belongs to ``gpus`` of its GPUs; bytes."""
    if machine.memory is None or not 0 < gpus < machine.gpus:
        return machine.memory
    return machine.memory * gpus // machine.gpus


def world_size(resources: Resources) -> int:
    """Ranks of one task."""
    assert isinstance(resources.gpus, int)
    return resources.nodes * (resources.gpus or resources.ranks)


def resolve_precision(config: SweepConfig, machine: Machine) -> str:
    """fp32 on CPUs, where bf16 is emulated and slow; bf16 on GPUs."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bf16" if resolve(config, "train", machine, 1).gpus else "fp32"
