"""What one cluster needs of a job. A profile is a YAML file; a sweep names it."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hpcscale.config.load import load_model_file
from hpcscale.config.types import Bytes, Section
from hpcscale.errors import ConfigError

_SECRET = re.compile(r"(token|secret|passw|api_?key|credential)", re.IGNORECASE)
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ContainerConfig(Section):
    """How a task enters its image; ``none`` runs the Python that submitted the sweep."""

    kind: Literal["none", "apptainer", "pyxis", "podman", "charliecloud"] = "none"
    image: str | None = None
    binds: tuple[str, ...] = ()
    gpu: bool = False
    workdir: str | None = None
    python: str = "python3"
    extra_args: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _an_image_belongs_to_a_kind(self) -> ContainerConfig:
        if (self.kind == "none") != (self.image is None):
            raise ValueError(
                "`kind` and `image` belong together: a kind other than none needs an image, "
                "for example `{kind: apptainer, image: /images/hpcscale.sif}`"
            )
        return self


class SiteProfile(Section):
    """Defaults of one site; the resources of a sweep override them."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int = Field(default=0, ge=0)
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory_per_node: Bytes | None = None
    gpu_type: str | None = None
    gpu_memory: Bytes | None = None
    max_array_size: int = Field(default=1000, ge=1)
    max_restarts: int = Field(default=20, ge=0)
    network_on_compute: bool = False
    signal_seconds: int = Field(default=120, ge=10)
    extra_sbatch: dict[str, str | int | bool] = Field(default={})
    modules: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default={})
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    container: ContainerConfig = ContainerConfig()

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if _SECRET.search(name):
                raise ValueError(
                    f"{name} looks like a secret, and scripts in a run directory can be read by "
                    "others; export it in your shell, which Slurm passes on"
                )
            if not _SHELL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of an environment variable")
        return value


def profile_folders() -> list[Path]:
    """Where a profile's name is looked up, the user's own first."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    here = Path(str(files("hpcscale")))
    return [
        home / "hpcscale" / "profiles",
        here.parents[1] / "slurm" / "profiles",
        here / "profiles",
    ]


def load_profile(name: str | None) -> SiteProfile:
    """The profile of a name, or of a YAML file; None means $HPCSCALE_SITE, or the generic one.

    Raises ConfigError that names the file, the line and the valid keys, or the known profiles.
    """
    name = name or os.environ.get("HPCSCALE_SITE") or "generic"
    if "/" in name or name.endswith((".yaml", ".yml")):
        return load_model_file(SiteProfile, Path(name).expanduser())
    for folder in profile_folders():
        if (folder / f"{name}.yaml").is_file():
            return load_model_file(SiteProfile, folder / f"{name}.yaml")
    if name == "generic":
        return SiteProfile(name="generic")
    known = sorted(
        {path.stem for f in profile_folders() if f.is_dir() for path in f.glob("*.yaml")}
    )
    raise ConfigError(
        f"there is no site profile `{name}`; known: {', '.join(known) or 'none'}; put your own "
        f"into {profile_folders()[0]}, or give the path of a YAML file"
    )
