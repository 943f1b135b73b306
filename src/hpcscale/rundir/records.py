"""Records of a sweep, so that its run directory alone suffices to continue and to check it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from hpcscale.atomic import write_json, write_text
from hpcscale.config.profile import SiteProfile
from hpcscale.errors import ConfigError
from hpcscale.rundir.layout import CALLS, CONFIG, DONE, MANIFEST, RELEASED, SITE, SWEEP
from hpcscale.rundir.task_file import TaskFile, write_task_file

_PACKAGES = (
    "hpcscale",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "deepspeed",
    "submitit",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
)


@dataclass(frozen=True)
class Call:
    """One call of ``hpcscale sweep``. resolved: the sweep file with every default and override."""

    sweep_file: Path
    overrides: tuple[str, ...]
    resolved: dict[str, object]
    executor: str
    precision: str
    profile: SiteProfile


def write_records(run_dir: Path, call: Call) -> None:
    """Write the sweep file, the resolved config, the site profile and the manifest of a call."""
    try:
        shutil.copyfile(call.sweep_file, run_dir / SWEEP)
    except shutil.SameFileError:
        pass
    except OSError as error:
        raise ConfigError(f"root: {run_dir} cannot be written ({error.strerror})") from None
    write_text(run_dir / CONFIG, yaml.safe_dump(call.resolved, sort_keys=False))
    write_text(run_dir / SITE, yaml.safe_dump(call.profile.plain(), sort_keys=False))
    manifest = environment() | {
        "sweep_file": str(call.sweep_file),
        "overrides": list(call.overrides),
        "executor": call.executor,
        "precision": call.precision,
        "site": call.profile.name,
    }
    write_json(run_dir / MANIFEST, manifest)
    with open(run_dir / CALLS, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(manifest) + "\n")


def write_task_files(run_dir: Path, files: Iterable[TaskFile]) -> None:
    """Write each task's file into its directory, and delete markers of an earlier result."""
    for file in files:
        directory = run_dir / file.id
        directory.mkdir(parents=True, exist_ok=True)
        for marker in (DONE, RELEASED):
            (directory / marker).unlink(missing_ok=True)
        write_task_file(run_dir, file)


def environment() -> dict[str, Any]:
    """Versions, machine and the state of the working tree; never the environment variables."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": sys.argv[1:],
        "host": socket.gethostname(),
        "user": os.environ.get("USER"),
        "directory": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """The commit of the working directory, and whether files differ from it; None without git."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
