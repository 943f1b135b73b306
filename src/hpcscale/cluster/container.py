"""Enter a container: srun flags, or a prefix of the command. It is text; no runtime is called."""

from __future__ import annotations

from collections.abc import Sequence

from hpcscale.config.profile import ContainerConfig


def container_wrap(
    container: ContainerConfig, command: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Extra flags for srun, and the command as it runs inside the image."""
    wrap = {
        "none": _none,
        "apptainer": _apptainer,
        "pyxis": _pyxis,
        "podman": _podman,
        "charliecloud": _charliecloud,
    }[container.kind]
    return wrap(container, list(command))


def _none(container: ContainerConfig, command: list[str]) -> tuple[list[str], list[str]]:
    return [], command


def _apptainer(container: ContainerConfig, command: list[str]) -> tuple[list[str], list[str]]:
    prefix = ["apptainer", "exec"]
    if container.gpu:
        prefix.append("--nv")
    prefix += [word for bind in container.binds for word in ("--bind", bind)]
    if container.workdir:
        prefix += ["--pwd", container.workdir]
    return [], [*prefix, *container.extra_args, str(container.image), *command]


def _pyxis(container: ContainerConfig, command: list[str]) -> tuple[list[str], list[str]]:
    flags = [f"--container-image={container.image}"]
    if container.binds:
        mounts = [bind if ":" in bind else f"{bind}:{bind}" for bind in container.binds]
        flags.append(f"--container-mounts={','.join(mounts)}")
    if container.workdir:
        flags.append(f"--container-workdir={container.workdir}")
    return [*flags, *container.extra_args], command


def _podman(container: ContainerConfig, command: list[str]) -> tuple[list[str], list[str]]:
    # Ranks meet over the host's network and shared memory, and read Slurm's variables.
    prefix = (
        "podman run --rm --network=host --ipc=host --env=SLURM* --env=SUBMITIT* "
        "--env=OMP_NUM_THREADS --env=CUDA_VISIBLE_DEVICES"
    ).split()
    if container.gpu:
        prefix.append("--device=nvidia.com/gpu=all")
    prefix += [f"--volume={_pair(bind)}" for bind in container.binds]
    if container.workdir:
        prefix.append(f"--workdir={container.workdir}")
    return [], [*prefix, *container.extra_args, str(container.image), *command]


def _charliecloud(container: ContainerConfig, command: list[str]) -> tuple[list[str], list[str]]:
    # ch-run wants $USER, which srun does not always pass on; bind targets must exist or be made.
    prefix = ["env", "USER=root", "ch-run", "--write"]
    prefix += [f"--bind={_pair(bind)}" for bind in container.binds]
    if container.workdir:
        prefix.append(f"--cd={container.workdir}")
    return [], [*prefix, *container.extra_args, str(container.image), "--", *command]


def _pair(bind: str) -> str:
    return bind if ":" in bind else f"{bind}:{bind}"
