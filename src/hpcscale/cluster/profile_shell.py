"""A site profile as shell assignments, for batch scripts that people read."""

from __future__ import annotations

import shlex

from hpcscale.cluster.container import container_wrap
from hpcscale.cluster.environment import LAUNCHER_NAMES, LAUNCHER_PREFIXES
from hpcscale.config.profile import SiteProfile

#: What an outer job's step tells srun about itself, which is not of this job: its number, cores
#: and memory. SLURM_EXPORT_ENV could keep the profile's variables from the ranks.
_STEP_PREFIXES = ("SLURM_STEP", "SLURM_CPU_BIND", "SLURM_MEM_PER_")
_PREFIXES = [f'"${{!{prefix}@}}"' for prefix in (*LAUNCHER_PREFIXES, *_STEP_PREFIXES)]
_UNSET = " ".join(["unset", *LAUNCHER_NAMES, "SLURM_EXPORT_ENV", *_PREFIXES])


def profile_shell(profile: SiteProfile) -> str:
    """Text for ``eval`` in bash: it loads modules, exports variables and sets two arrays.

    HPCSCALE_SRUN_ARGS: flags for srun. HPCSCALE_COMMAND: how to call hpcscale on a node.
    """
    container = profile.container
    python = (
        ["hpcscale"] if container.kind == "none" else [container.python, "-m", "hpcscale.cli.main"]
    )
    flags, command = container_wrap(container, python)
    lines = [_UNSET]
    lines += [f"module load {shlex.quote(module)}" for module in profile.modules]
    lines += [f"export {key}={shlex.quote(text)}" for key, text in profile.environment.items()]
    lines += profile.setup
    lines.append(f"HPCSCALE_SRUN_ARGS=({shlex.join([*profile.srun_args, *flags])})")
    lines.append(f"HPCSCALE_COMMAND=({shlex.join(command)})")
    return "\n".join(lines)
