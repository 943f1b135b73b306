"""What a plan says of the end of texts, and of stores that end them otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import write_done, write_json
from hpcscale.opened import Sweep
from hpcscale.preview.separator import separator_changed, separator_lines
from hpcscale.preview.text import plan_text
from planning import open_plan
from vocabularies import FILES, write_files


def sweep(folder: Path, tokenizer: object) -> Sweep:
    return open_plan(folder, f"tokenizer={tokenizer}")


def test_the_plan_names_the_end_of_text_of_a_local_directory(tmp_path: Path) -> None:
    opened = sweep(tmp_path, write_files(tmp_path / "opt", FILES["OPT"]))
    line = "end of text: </s> (token 2), the tokenizer's eos_token"
    assert separator_lines(opened) == [line]
    assert line in plan_text(opened, opened.plan()).splitlines()


def test_the_plan_says_nothing_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert separator_lines(sweep(tmp_path, "facebook/opt-125m")) == []
    assert separator_lines(sweep(tmp_path, "{train: 300}")) == []


def test_the_plan_says_what_is_wrong(tmp_path: Path) -> None:
    files = FILES["an eos_token that the task refuses"]
    (line,) = separator_lines(sweep(tmp_path, write_files(tmp_path / "opt", files)))
    assert line.startswith("end of text: unknown: ")
    assert "'<gone>'" in line


def finish(opened: Sweep, files: dict[str, Any], eot: int) -> None:
    """The tokenizer and the eval store of a run directory, as far as the question goes."""
    task, store = opened.tasks.shared.tokenizer, opened.tasks.shared.stores["eval"]
    write_files(opened.run_dir / task.id / "tokenizer", files)
    write_done(opened.run_dir / task.id, task.key, ["tokenizer/tokenizer.json"])
    write_json(opened.run_dir / store.id / "store" / "manifest.json", {"eot_id": eot})
    write_done(opened.run_dir / store.id, store.key, ["store/manifest.json"])


def test_stores_that_end_texts_otherwise_are_told(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "facebook/opt-125m")
    assert separator_changed(opened) is None
    finish(opened, FILES["OPT"], eot=4)
    assert separator_lines(opened) == ["end of text: </s> (token 2), the tokenizer's eos_token"]
    told = separator_changed(opened)
    assert told is not None
    assert "end texts with <|endoftext|> (token 4)" in told
    assert "own end of text is </s> (token 2)" in told
    assert "--set name=NAME" in told


@pytest.mark.parametrize(("name", "eot"), [("OPT", 2), ("GPT-2", 2), ("Llama", 1)])
def test_stores_that_end_texts_as_the_tokenizer_are_not_told(
    name: str, eot: int, tmp_path: Path
) -> None:
    opened = sweep(tmp_path, "some/model")
    finish(opened, FILES[name], eot)
    assert separator_changed(opened) is None


def test_a_local_eos_token_that_was_edited_since_is_told(tmp_path: Path) -> None:
    """Its directory has the same key where former versions did not read the edited file."""
    files = FILES["Llama"]
    local = write_files(tmp_path / "local", files)
    opened = sweep(tmp_path, local)
    finish(opened, files, eot=1)
    assert separator_changed(opened) is None
    (local / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    again = sweep(tmp_path, local)
    assert again.tasks.shared.tokenizer.key == opened.tasks.shared.tokenizer.key
    told = separator_changed(again)
    assert told is not None
    assert "end texts with </s> (token 1)" in told
