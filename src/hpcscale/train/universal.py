"""Checkpoints as users handle them: inspect one, cut it for other ranks, export its model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpcscale.atomic import atomic_directory, write_json
from hpcscale.errors import CheckpointError
from hpcscale.model.build import build_from_config, load_model, save_model
from hpcscale.train.state import KINDS
from hpcscale.train.state_reader import StateReader
from hpcscale.train.state_writer import key_of, rank_file, write_tensors
from hpcscale.train.tag_files import MANIFEST, broken_file, read_manifest, tags_in


def find_tag(path: Path) -> Path:
    """``path`` if it is a tag, else the newest tag in it or in its ``checkpoints``.

    Raises CheckpointError where there is none.
    """
    if (path / MANIFEST).exists():
        return path
    for folder in (path, path / "checkpoints"):
        if tags := tags_in(folder):
            return folder / tags[-1]
    raise CheckpointError(
        f"{path} holds no checkpoint; give RUN/cells/CELL/checkpoints/step-..., or a cell that has "
        "not finished: a finished one keeps its model alone"
    )


def inspect(tag: Path) -> dict[str, Any]:
    """The manifest, with ``bytes`` of the files and ``problem``: what is wrong, or None."""
    record = read_manifest(tag)
    problem = broken_file(tag, record, sorted(record["files"]))
    if problem is None:
        with StateReader(tag, record["files"]) as saved:
            problem = _incomplete(record, saved)
    size = sum(path.stat().st_size for path in tag.iterdir())
    return {**record, "bytes": size, "problem": problem}


def _incomplete(record: dict[str, Any], saved: StateReader) -> str | None:
    for name, shape in record["parameters"].items():
        for kind in KINDS:
            there, due = saved.size(kind, name), torch.Size(shape).numel()
            if there != due:
                return f"{there} of {due} elements of {kind} of {name} are there"
    return None


def _sound(tag: Path) -> dict[str, Any]:
    record = inspect(tag)
    if record["problem"]:
        raise CheckpointError(f"{tag} is broken: {record['problem']}; use the tag before it")
    return record


def convert(tag: Path, out: Path, world_size: int) -> None:
    """Write ``tag`` to ``out`` as ``world_size`` ranks of the torch engine would have.

    No run needs this to resume on other ranks. One parameter is in memory at a time. Raises
    CheckpointError where the tag is broken or ``out`` exists.
    """
    _refuse_to_replace(out)
    record = _sound(tag)
    del record["bytes"], record["problem"]
    files = {}
    with atomic_directory(out) as folder, StateReader(tag, record["files"]) as saved:
        for rank in range(world_size):
            tensors = _share(record["parameters"], saved, rank, world_size)
            files[rank_file(rank)] = write_tensors(folder / rank_file(rank), tensors)
        write_json(folder / MANIFEST, {**record, "world_size": world_size, "files": files})


def _share(
    parameters: dict[str, list[int]], saved: StateReader, rank: int, world_size: int
) -> dict[str, Tensor]:
    tensors = {}
    for name, shape in parameters.items():
        size = torch.Size(shape).numel()
        begin, end = (size * k // world_size for k in (rank, rank + 1))
        for kind in KINDS if end > begin else ():
            values = torch.empty(end - begin)
            saved.read_into(kind, name, begin, values)
            tensors[key_of(kind, name, begin)] = values
    return tensors


def export(tag: Path, out: Path) -> None:
    """Write the model of ``tag`` to ``out`` in Hugging Face format, tied weights tied again, then
    load it from there and compare each weight.

    Raises CheckpointError where the tag is broken or ``out`` exists.
    """
    _refuse_to_replace(out)
    record = _sound(tag)
    model = build_from_config(record["model"])
    with StateReader(tag, record["files"]) as saved, torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in record["parameters"]:
                saved.read_into("weight", name, 0, parameter.view(-1))
            else:
                raise CheckpointError(
                    f"{tag} holds no {name}, which was not trained; export from the cell's base "
                    "model and these weights by hand"
                )
    save_model(model, out)
    if not _same(model, load_model(out)):
        shutil.rmtree(out)
        raise CheckpointError(f"{out} did not load as what was written; nothing is left of it")


def _same(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def _refuse_to_replace(out: Path) -> None:
    if out.exists():
        raise CheckpointError(f"{out} exists; give another folder, or delete it")
