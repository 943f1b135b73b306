"""``auto`` on this machine and on a cluster's node."""

from __future__ import annotations

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.config.resources import Resources, StageName
from hpcscale.errors import ConfigError
from hpcscale.plan.resources import Machine, resolve, resolve_precision, world_size
from planning import QUICKSTART

HERE = Machine(gpus=0, cores=16, side_by_side=True)
HERE_WITH_GPUS = Machine(gpus=2, cores=16, side_by_side=True)
NODE = Machine(gpus=4, cores=64, side_by_side=False, memory=256 << 30)


def resolved(
    machine: Machine, *overrides: str, stage: StageName = "train", tasks: int = 1
) -> Resources:
    return resolve(load_sweep(QUICKSTART, overrides), stage, machine, tasks)


@pytest.mark.parametrize(("machine", "gpus"), [(HERE, 0), (HERE_WITH_GPUS, 1), (NODE, 4)])
def test_a_task_has_a_gpu_here_and_all_of_a_node_s(machine: Machine, gpus: int) -> None:
    found = resolved(machine)
    assert found.gpus == gpus
    assert world_size(found) == max(gpus, 1)


@pytest.mark.parametrize(
    ("tasks", "ranks", "cpus"), [(1, 1, 16), (4, 1, 4), (5, 1, 3), (99, 1, 1), (2, 4, 2)]
)
def test_cores_are_shared_by_the_tasks_of_the_stage(tasks: int, ranks: int, cpus: int) -> None:
    assert resolved(HERE, f"resources.train.ranks={ranks}", tasks=tasks).cpus == cpus


def test_a_node_s_cores_are_shared_by_its_ranks_alone() -> None:
    assert resolved(NODE, tasks=99).cpus == 16
    assert resolved(NODE, "resources.train={gpus: 0, ranks: 8}", tasks=99).cpus == 8


def test_light_stages_take_part_of_a_node() -> None:
    assert resolved(NODE, stage="tokenizer").cpus == 16
    assert resolved(NODE, stage="select").cpus == 1
    assert resolved(NODE, stage="select").memory is None
    assert resolved(Machine(0, 4, False), stage="tokenizer").cpus == 4


def test_memory_goes_with_gpus() -> None:
    assert resolved(NODE).memory == 256 << 30
    assert resolved(NODE, "resources.train.gpus=1").memory == 64 << 30
    assert resolved(NODE, "resources.train={gpus: 1, memory: 8GiB}").memory == 8 << 30
    assert resolved(HERE).memory is None


def test_what_is_asked_for_is_left_alone() -> None:
    found = resolved(NODE, "resources.train={nodes: 3, gpus: 2, cpus: 7, time: 9h}")
    assert (found.nodes, found.gpus, found.cpus, found.time) == (3, 2, 7, 9 * 3600)
    assert world_size(found) == 6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gpus=3", "resources.train.gpus asks for 3 GPUs, this machine has 2"),
        ("nodes=2", "resources.train.nodes asks for 2 nodes, the local executor has one"),
    ],
)
def test_more_than_this_machine_has_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        resolved(HERE_WITH_GPUS, f"resources.train.{override}")
    assert f"--set resources.train.{override.partition('=')[0]}=" in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "override", "precision"),
    [
        (HERE, "train.precision=auto", "fp32"),
        (NODE, "train.precision=auto", "bf16"),
        (NODE, "resources.train.gpus=0", "fp32"),
        (HERE, "train.precision=bf16", "bf16"),
    ],
)
def test_precision_is_that_of_the_training_s_device(
    machine: Machine, override: str, precision: str
) -> None:
    assert resolve_precision(load_sweep(QUICKSTART, (override,)), machine) == precision
