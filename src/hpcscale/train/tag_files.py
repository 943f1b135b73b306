"""Tags, the folders of whole checkpoints: their names, manifests and checksums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_json, sha256_file
from hpcscale.errors import CheckpointError, HpcscaleError

MANIFEST = "manifest.json"
FORMAT = 1


def tag_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(tag: str) -> int:
    return int(tag.removeprefix("step-"))


def tags_in(folder: Path) -> list[str]:
    """Complete tags in a folder of checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name for name in names if name.startswith("step-") and name[5:].isdigit())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises CheckpointError or TaskError where ``folder`` is not a tag of this format."""
    record: dict[str, Any] = read_json(folder / MANIFEST)
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has format {record.get('format', 0)}, and this version reads {FORMAT}; use "
            "the version that wrote it"
        )
    return record


def broken_file(folder: Path, record: dict[str, Any], names: Sequence[str]) -> str | None:
    """What is wrong with one of the files ``names`` of a tag; None: nothing."""
    for name in names:
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if sha256_file(path) != record["files"][name]:
            return f"{name} differs from its checksum"
    return None


def is_lasting(folder: Path) -> bool:
    """Whether the tag stays when later ones come."""
    try:
        return bool(read_json(folder / MANIFEST).get("lasting"))
    except HpcscaleError:
        return False
