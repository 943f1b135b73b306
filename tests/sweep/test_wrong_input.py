"""Wrong input ends in one clear message and exit code 2, before anything is started."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from hpcscale.cli.main import main
from support import Run


@pytest.fixture
def fails(sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Call the command line; the message on standard error, after what must always hold."""

    def call(*words: object, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["hpcscale", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        message = capsys.readouterr().err
        assert caught.value.code == code, message
        assert "Traceback" not in message
        assert message.strip()
        assert not (sweep_file.parent / "runs").exists(), "nothing was started"
        return message

    return call


OVERRIDES = {
    "unknown key": (["train.lrr=1"], "did you mean `lr`"),
    "bad unit": (["budgets=[4 parsecs]"], "'4 parsecs' is not a count"),
    "missing file": (["data.pool.path=nowhere.jsonl"], "nowhere.jsonl"),
    "empty glob": (["data.pool.path=nowhere/*.jsonl"], "nowhere"),
    "overlapping split": (
        ["data.pool.share=0.9", "data.eval.share=0.3", "data.base.share=0.1"],
        "splits overlap",
    ),
    "budget over pool": (["budgets=[1M]"], "budget 1M is larger than what selection `random`"),
    "budget over kept": (["budgets=[20k]"], "selection `middle` keeps: about 12k"),
    "bad percentile": (
        ["selection=[{name: p, method: perplexity, percentiles: [20, 120]}]"],
        "between 0 and 100",
    ),
    "unknown method": (["selection=[rando]"], "did you mean `random`"),
    "unknown parameter": (["selection.1.rat=0.2"], "did you mean `rate`"),
    "micro-batch": (["train.micro_batch=3"], "write one of [1, 2, 4, 8]"),
    "ranks": (["resources.train.ranks=3"], "ranks may number [1, 2, 4, 8]"),
    "global batch": (["train.global_batch=100"], "write 96 or 128"),
    "no such directory": (["model={source: ./nowhere}"], "nowhere is not a directory"),
    "two nodes here": (["resources.train.nodes=2"], "--executor slurm"),
    "GPUs here": (["resources.train.gpus=64"], "asks for 64 GPUs"),
    "bad time": (["resources.train.time=later"], "'later' is not a duration"),
    "bad precision": (["train.precision=int8"], "'auto', 'fp32', 'bf16' or 'fp16'"),
    "lr scaling": (["train.lr_scaling=linear"], "lr_reference_batch"),
    "heads": (["model.scratch.heads=5"], "heads may be one of"),
    "tokenizer": (["tokenizer={train: 10}"], "at least 257"),
    "scorer": (
        ["selection.1.model=./nowhere"],
        "nowhere is not a directory",
    ),
    "no site": (["resources.site=atlantis"], "no site profile `atlantis`; known:"),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_wrong_setting(fails, sweep_file: Path, case: str) -> None:  # type: ignore[no-untyped-def]
    overrides, expected = OVERRIDES[case]
    words = [word for override in overrides for word in ("--set", override)]
    message = fails("sweep", sweep_file, "--executor", "local", *words)
    assert expected in message


def test_a_missing_sweep_file(fails) -> None:  # type: ignore[no-untyped-def]
    assert "nowhere.yaml: no such file" in fails("sweep", "nowhere.yaml")


def test_yaml_that_is_none_names_the_line(fails, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    sweep_file.write_text(sweep_file.read_text() + "\nseeds: [0\n")
    assert f"{sweep_file}:" in fails("sweep", sweep_file)


def test_a_root_that_cannot_be_written(fails, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    # A file in the way stops root too, whom permissions do not.
    (sweep_file.parent / "blocked").write_text("")
    message = fails(
        "sweep",
        sweep_file,
        "--executor",
        "local",
        "--set",
        f"root={sweep_file.parent / 'blocked' / 'runs'}",
    )
    assert "root:" in message
    assert "--set root=DIR" in message


def test_no_slurm_here(fails, sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no Slurm answers here" in fails("sweep", sweep_file, "--executor", "slurm")


def test_status_of_no_run_directory(fails, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "is not a run directory" in fails("status", tmp_path)


def test_eval_of_no_model_and_on_no_store(fails, tmp_path: Path, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    assert "neither a token store nor" in fails("eval", "gpt2", "--data", tmp_path)
    assert "hpcscale data prepare" in fails("eval", "gpt2", "--data", sweep_file)


def test_a_profile_with_a_secret_or_an_unknown_key(fails, tmp_path: Path, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\nenvironment: {HF_TOKEN: hf_123}\n")
    message = fails("sweep", sweep_file, "--site", profile)
    assert "mine.yaml:2" in message
    assert "looks like a secret" in message
    profile.write_text("name: mine\npartion: gpu\n")
    assert "did you mean `partition`" in fails("sweep", sweep_file, "--site", profile)


def test_a_model_with_too_short_a_context(fails, tmp_path: Path, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"n_positions": 16}))
    message = fails(
        "sweep", sweep_file, "--executor", "local", "--set", f"model={{source: {model}}}"
    )
    assert "longer than the 16 positions" in message


@pytest.mark.parametrize(
    "words", [["swep"], ["sweep"], ["sweep", "x", "--executors", "pbs"], ["eval"]]
)
def test_a_wrong_command_line(fails, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert "Usage:" in fails(*words)


@pytest.mark.parametrize("role", ["base", "pool"])
def test_a_cut_archive_stops_the_preparation_by_its_name(
    sweep_file: Path, texts: Path, tmp_path: Path, role: str, hpcscale: Run
) -> None:
    """In the tokenizer's training (base) and in the building of a store (pool)."""
    cut = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress(texts.read_bytes())
    cut.write_bytes(whole[: len(whole) // 2])
    done = hpcscale("data", "prepare", sweep_file, "--set", f"data.{role}.path={cut}", check=1)
    assert "Traceback" not in done.stderr
    assert f"{cut} is damaged or cut off: " in done.stdout + done.stderr
    assert "fetch it again, or leave it out of `path:`" in done.stdout + done.stderr


def test_a_pointer_of_git_lfs_is_found_before_anything_starts(fails, sweep_file: Path) -> None:  # type: ignore[no-untyped-def]
    pointer = sweep_file.parent / "c4-train.00000-of-01024.json.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    message = fails(
        "sweep", sweep_file, "--executor", "local", "--set", f"data.pool.path={pointer}"
    )
    assert f"{pointer} is a Git LFS pointer" in message
    assert "run `git lfs pull`" in message
