"""What a sweep writes about itself, so that the run directory alone can go on and be checked."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from hpcscale.atomic import DONE, write_json, write_text
from hpcscale.errors import ConfigError
from hpcscale.opened import Sweep, describe
from hpcscale.plan.graph import Task
from hpcscale.rundir.state import SPENT
from hpcscale.worker.context import SPEC

#: The site profile of the last call, which may be a file of the user's.
SITE = "site.yaml"
_PACKAGES = ("hpcscale", "torch", "transformers", "tokenizers", "datasets", "deepspeed",
             "submitit", "numpy", "pandas", "pyarrow", "scipy")  # fmt: skip


def write_records(sweep: Sweep) -> None:
    """The sweep file, the resolved config and the manifest of this call."""
    run_dir = sweep.run_dir
    try:
        shutil.copyfile(sweep.path, run_dir / "sweep.yaml")
    except shutil.SameFileError:
        pass
    except OSError as error:
        raise ConfigError(f"root: {run_dir} cannot be written ({error.strerror})") from None
    write_text(run_dir / "config.yaml", yaml.safe_dump(describe(sweep), sort_keys=False))
    write_text(run_dir / SITE, yaml.safe_dump(sweep.profile.plain(), sort_keys=False))
    manifest = environment() | {
        "sweep_file": str(sweep.path),
        "overrides": list(sweep.overrides),
        "executor": sweep.executor,
        "precision": sweep.pipeline.precision,
        "site": sweep.profile.name,
    }
    write_json(run_dir / "manifest.json", manifest)
    with open(run_dir / "calls.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(manifest) + "\n")


def write_specs(run_dir: Path, tasks: Iterable[Task]) -> None:
    """Each task's spec where its worker looks for it, and no marker of an earlier end."""
    for task in tasks:
        directory = run_dir / task.id
        directory.mkdir(parents=True, exist_ok=True)
        for marker in (DONE, SPENT):
            (directory / marker).unlink(missing_ok=True)
        text = json.dumps(task.spec(), indent=2)
        path = directory / SPEC
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


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
    """Commit and dirtiness of the working tree that the command was called in."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
