"""Checkpoints by hand: looked into, cut for other ranks, exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hpcscale.cli.checkpoint import command
from hpcscale.errors import CheckpointError, Preempted
from hpcscale.model.build import load_model
from hpcscale.train.state_reader import StateReader
from hpcscale.train.state_writer import write_tensors
from hpcscale.train.universal import convert, export, find_tag, inspect
from training import make_store, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("universal")
    make_store(folder / "store")
    with pytest.raises(Preempted):
        train_here(folder / "cell", stop_at=4)
    return folder


@pytest.fixture(scope="module")
def tag(folder: Path) -> Path:
    return find_tag(folder / "cell")


def invoke(*words: Any) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def test_files_are_what_the_safetensors_package_reads(tmp_path: Path) -> None:
    tensors = {
        "a/b@0": torch.randn(5),
        "empty": torch.empty(0),
        "rng": torch.arange(7, dtype=torch.uint8),
        "big": torch.randn(3, 1 << 21),
    }
    digest = write_tensors(tmp_path / "file", tensors)
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], value) for key, value in tensors.items())
    import hashlib

    assert digest == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()


def test_any_stretch_is_read_from_any_cut(tmp_path: Path) -> None:
    whole = torch.randn(100)
    names = []
    for number, (begin, end) in enumerate([(70, 100), (0, 33), (33, 70)]):
        names.append(f"file{number}")
        write_tensors(tmp_path / names[-1], {f"weight/x@{begin}": whole[begin:end].clone()})
    with StateReader(tmp_path, names) as saved:
        for begin, end in ((0, 100), (32, 34), (33, 70), (10, 95), (99, 100)):
            out = torch.empty(end - begin)
            saved.read_into("weight", "x", begin, out)
            assert torch.equal(out, whole[begin:end])
    gap = pytest.raises(CheckpointError, match="no weight of x from element 33 to 40")
    with StateReader(tmp_path, names[:2]) as saved, gap:
        saved.read_into("weight", "x", 30, torch.empty(10))


def test_converted_state_goes_on_as_the_run_itself(folder: Path, tag: Path) -> None:
    whole = [line["loss"] for line in train_here(folder / "whole")]
    out = folder / "converted"
    convert(tag, out / "checkpoints" / tag.name, 3)
    assert len(inspect(find_tag(out))["files"]) == 3
    assert [line["loss"] for line in train_here(out)] == whole[4:]


def test_an_export_is_the_model_with_its_weights_tied(folder: Path, tag: Path) -> None:
    export(tag, folder / "model")
    loaded: Any = load_model(folder / "model")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    (file,) = (folder / "model").glob("*.safetensors")
    assert "lm_head.weight" not in load_file(file)
    saved = load_file(tag / "rank-00000.safetensors")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter.flatten(), saved[f"weight/{name}@0"]), name


def test_what_is_broken_is_said_and_neither_converted_nor_exported(folder: Path, tag: Path) -> None:
    broken = folder / "broken" / tag.name
    shutil.copytree(tag, broken)
    file = broken / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert invoke("inspect", broken).startswith("1 ")
    assert "rank-00000.safetensors differs from its checksum" in invoke("inspect", broken)
    for act in (lambda out: convert(broken, out, 1), lambda out: export(broken, out)):
        with pytest.raises(CheckpointError, match="is broken"):
            act(folder / "nothing")
    assert not (folder / "nothing").exists()


def test_the_commands(folder: Path, tag: Path) -> None:
    said = invoke("inspect", folder / "cell")
    assert said.startswith(f"0 {tag}\nstep 4, 512 tokens, seed 0, task key\n")
    assert "1 rank(s) of the torch engine" in said
    assert said.endswith(": whole\n")
    assert invoke("convert", tag, "--out", folder / "two", "--ranks", "2").startswith("0 ")
    assert invoke("export", folder / "two", "--out", folder / "exported").startswith("0 ")
    with pytest.raises(CheckpointError, match="exists"):
        invoke("export", tag, "--out", folder / "exported")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        invoke("inspect", folder)
