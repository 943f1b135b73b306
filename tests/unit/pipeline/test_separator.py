"""The end of text in plans and keys: what former versions read alike keeps its key, literally."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import write_done, write_json
from hpcscale.errors import ConfigError
from hpcscale.opened import Sweep, open_sweep
from hpcscale.preview.separator import separator_changed, separator_lines
from hpcscale.preview.text import plan_text

SWEEP = """\
name: ends
root: {root}
model: {{scratch: {{layers: 2, width: 32, heads: 2}}}}
tokenizer: {tokenizer}
data:
  base: {{corpus: stdlib, tokens: 100k}}
  pool: {{corpus: stdlib, tokens: 100k}}
  eval: {{corpus: stdlib, tokens: 10k}}
budgets: [50k]
seeds: [0]
"""
GPT2 = {"!": 0, "a": 1, "<|endoftext|>": 2}
OPT = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "<|endoftext|>": 4}


def whole(vocab: dict[str, int]) -> dict[str, Any]:
    added = [{"id": i, "content": t, "special": True} for t, i in vocab.items() if t[0] == "<"]
    return {"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def folder(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text)
    return path


def sweep(tmp_path: Path, tokenizer: object) -> Sweep:
    (tmp_path / "ends.yaml").write_text(SWEEP.format(root=tmp_path, tokenizer=tokenizer))
    return open_sweep(tmp_path / "ends.yaml", (), "local")


PARTS = {"vocab.json": GPT2, "merges.txt": "#version: 0.2\n"}
ENDOFTEXT, EOS = {"eos_token": "<|endoftext|>"}, {"eos_token": "</s>"}
#: Files, and what stands in `decides` beside their checksums.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GPT-2": ({"tokenizer.json": whole(GPT2), "tokenizer_config.json": ENDOFTEXT}, {}),
    "GPT-2 alone": ({"tokenizer.json": whole(GPT2)}, {}),
    "GPT-2 in parts": (PARTS, {}),
    "GPT-2 in parts without a prefix space": (
        PARTS | {"tokenizer_config.json": ENDOFTEXT | {"add_prefix_space": False}}, {},
    ),
    "GPT-2 in parts with a prefix space": (
        PARTS | {"tokenizer_config.json": {"add_prefix_space": True}}, {"add_prefix_space": True},
    ),
    "a prefix space beside a tokenizer.json, which says it itself": (
        {"tokenizer.json": whole(GPT2), "tokenizer_config.json": {"add_prefix_space": True}}, {},
    ),
    "Llama": (
        {"tokenizer.json": whole({"<s>": 0, "</s>": 1}), "tokenizer_config.json": EOS}, {},
    ),
    "OPT": (
        {"tokenizer.json": whole(OPT), "tokenizer_config.json": EOS}, {"end_of_text": "</s>"},
    ),
    "OPT by its model": (
        {"tokenizer.json": whole(OPT), "config.json": {"eos_token_id": 2}},
        {"end_of_text": "</s>"},
    ),
    "an eos_token that the task refuses": (
        {"tokenizer.json": whole(OPT), "tokenizer_config.json": {"eos_token": "<gone>"}}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_read_otherwise_is_added_to_what_decides(name: str, tmp_path: Path) -> None:
    files, extra = CASES[name]
    local = folder(tmp_path / "local", files)
    decides = sweep(tmp_path, local).pipeline.tokenizer.decides
    assert set(decides.pop("content")) == set(files) - {"tokenizer_config.json"}
    assert decides == {"version": 1} | extra


def test_keys_of_local_directories_are_the_former_ones(tmp_path: Path) -> None:
    keys = {}
    for name in ("GPT-2", "GPT-2 in parts", "Llama", "OPT"):
        local = folder(tmp_path / name.replace(" ", "-"), CASES[name][0])
        keys[name] = sweep(tmp_path, local).pipeline.tokenizer.key
    # As of the version before this one, which gave OPT 6f460f4336f13208.
    assert keys == {
        "GPT-2": "afcff3006ed05350",
        "GPT-2 in parts": "3c745053f67fc384",
        "Llama": "c3f04c0433b5e538",
        "OPT": "f8d10e368904dfe9",
    }


def test_a_chosen_reading_decides_and_so_do_the_settings_that_it_reads(tmp_path: Path) -> None:
    local = folder(tmp_path / "local", CASES["GPT-2"][0])
    plain = sweep(tmp_path, local).pipeline.tokenizer
    file, first = (
        sweep(tmp_path, f"{{source: {local}, reading: {reading}}}").pipeline.tokenizer
        for reading in ("file", "transformers")
    )
    assert file.decides == plain.decides | {"reading": "file"}
    assert set(first.decides["settings"]) == {"tokenizer_config.json"}
    (local / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "x": 1}')
    second = sweep(tmp_path, f"{{source: {local}, reading: transformers}}").pipeline.tokenizer
    assert len({plain.key, file.key, first.key, second.key}) == 4
    hub = sweep(tmp_path, "{source: some/model, reading: transformers}").pipeline.tokenizer
    assert hub.decides["reading"] == "transformers"
    with pytest.raises(ConfigError, match="a trained one has one reading"):
        sweep(tmp_path, "{train: 300, reading: file}")


def test_the_plan_names_the_end_of_text_of_a_local_directory(tmp_path: Path) -> None:
    opened = sweep(tmp_path, folder(tmp_path / "opt", CASES["OPT"][0]))
    line = "end of text: </s> (token 2), the tokenizer's eos_token"
    assert separator_lines(opened) == [line]
    assert line in plan_text(opened, opened.plan()).splitlines()


def test_the_plan_says_nothing_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert separator_lines(sweep(tmp_path, "facebook/opt-125m")) == []
    assert separator_lines(sweep(tmp_path, "{train: 300}")) == []


def test_the_plan_says_what_is_wrong(tmp_path: Path) -> None:
    files = CASES["an eos_token that the task refuses"][0]
    (line,) = separator_lines(sweep(tmp_path, folder(tmp_path / "opt", files)))
    assert line.startswith("end of text: unknown: ")
    assert "'<gone>'" in line


def finish(opened: Sweep, files: dict[str, Any], eot: int) -> None:
    """The tokenizer and the eval store of a run directory, as far as the question goes."""
    task, store = opened.pipeline.tokenizer, opened.pipeline.stores["eval"]
    folder(opened.run_dir / task.id / "tokenizer", files)
    write_done(opened.run_dir / task.id, task.key, ["tokenizer/tokenizer.json"])
    write_json(opened.run_dir / store.id / "store" / "manifest.json", {"eot_id": eot})
    write_done(opened.run_dir / store.id, store.key, ["store/manifest.json"])


def test_stores_that_end_texts_otherwise_are_told(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "facebook/opt-125m")
    assert separator_changed(opened) is None
    finish(opened, CASES["OPT"][0], eot=4)
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
    finish(opened, CASES[name][0], eot)
    assert separator_changed(opened) is None


def test_a_local_eos_token_that_was_edited_since_is_told(tmp_path: Path) -> None:
    """Its directory has the same key where former versions did not read the edited file."""
    files = CASES["Llama"][0]
    local = folder(tmp_path / "local", files)
    opened = sweep(tmp_path, local)
    finish(opened, files, eot=1)
    assert separator_changed(opened) is None
    (local / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    again = sweep(tmp_path, local)
    assert again.pipeline.tokenizer.key == opened.pipeline.tokenizer.key
    told = separator_changed(again)
    assert told is not None
    assert "end texts with </s> (token 1)" in told
