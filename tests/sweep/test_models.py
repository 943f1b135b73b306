"""A base model from elsewhere: its sweep is right, or stops with a sentence before any training."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from families import save
from hpcscale.atomic import read_json
from support import Run, write_sweep

PROBES = [
    "weights",
    "causality",
    "training passes",
    "head short cut",
    "packing isolate",
    "positions",
    "vocabulary",
    "separator",
    "FLOPs",
]


def sweep_of(model: Path, tmp_path: Path, texts: Path, *overrides: str) -> list[object]:
    """A call of `sweep` with two small cells of ``model``."""
    file = write_sweep(tmp_path, texts)
    given = (
        f"model={model}",
        f"tokenizer={model}",
        "budgets=[2k]",
        "seeds=[0,1]",
        "selection=[random]",
        *overrides,
    )
    return ["sweep", file, "--executor", "debug", *(w for one in given for w in ("--set", one))]


def test_a_sweep_keeps_the_probes_beside_l0_and_stops_where_one_fails(
    tmp_path: Path, texts: Path, hpcscale: Run
) -> None:
    good, bad = save(tmp_path / "good"), save(tmp_path / "bad", "bloom")
    hpcscale(*sweep_of(good, tmp_path, texts, "name=good", "data.packing=isolate"))
    (base,) = (tmp_path / "runs" / "good" / "base").glob("evaluation-*")
    kept = read_json(base / "probes.json")
    # A fetched tokenizer was compared with transformers when it was fetched.
    assert [probe["name"] for probe in kept] == PROBES
    assert all(probe["passed"] for probe in kept)
    assert "probes.json" in read_json(base / "done.json")["outputs"]
    words = sweep_of(bad, tmp_path, texts, "name=bad", "data.packing=isolate")
    done = hpcscale(*words, check=1)
    assert "models of type `bloom` cannot keep documents apart" in done.stdout + done.stderr


def compiled(folder: Path) -> Path:
    """Its weights by the names that a compiled model gives them."""
    path = folder / "model.safetensors"
    named = {f"_orig_mod.{name}": weight for name, weight in load_file(path).items()}
    save_file(named, path, metadata={"format": "pt"})
    return folder


def test_no_sweep_and_no_eval_starts_from_what_a_model_cannot_give(
    tmp_path: Path, texts: Path, hpcscale: Run
) -> None:
    good, run = save(tmp_path / "good"), tmp_path / "runs" / "tiny"
    hpcscale(*sweep_of(good, tmp_path, texts))
    first, second = (hpcscale("eval", good, "--data", run).stdout for _ in range(2))
    assert first == second
    bad = compiled(save(tmp_path / "bad"))
    done = hpcscale(*sweep_of(bad, tmp_path, texts, "name=other"), check=1)
    assert "_orig_mod." in done.stdout + done.stderr
    assert not list((tmp_path / "runs" / "other" / "cells").glob("*/done.json"))
    told = hpcscale("eval", bad, "--data", run, check=2).stderr
    assert "29 parameters are not in the checkpoint" in told
    told = hpcscale("eval", good, "--data", run, "--sequence-length", 256, check=2).stderr
    assert "a sequence length of 256 is longer than the 64 positions of" in told
    assert "write 64 or less" in told
