"""What of a tokenizer directory decides: what former versions read alike keeps its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.errors import ConfigError
from hpcscale.plan.build import build_tasks
from hpcscale.plan.fingerprints import SourceFingerprints
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.specs import TokenIds
from hpcscale.plan.tokenizer_settings import token_ids
from planning import PLAN
from vocabularies import FILES, write_files

#: What stands in `decides` beside checksums and version; nothing for the others.
EXTRA = {
    "GPT-2 in parts with a prefix space": {"add_prefix_space": True},
    "OPT": {"end_of_text": "</s>"},
    "OPT by its model": {"end_of_text": "</s>"},
}


def tokenizer(tmp_path: Path, given: object) -> AnyTask:
    """The task of a sweep with this tokenizer, whose files are read."""
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN.format(root=tmp_path))
    config = load_sweep(file, (f"tokenizer={given}",))
    return build_tasks(config, "fp32", SourceFingerprints(tmp_path / "cache")).shared.tokenizer


def decides(task: AnyTask) -> dict[str, Any]:
    return task.file().decides


@pytest.mark.parametrize("name", FILES)
def test_only_what_is_read_otherwise_is_added_to_what_decides(name: str, tmp_path: Path) -> None:
    local = write_files(tmp_path / "local", FILES[name])
    found = decides(tokenizer(tmp_path, local))
    assert set(found.pop("content")) == set(FILES[name]) - {"tokenizer_config.json"}
    assert found == {"version": 1} | EXTRA.get(name, {})


def test_keys_of_local_directories_are_the_former_ones(tmp_path: Path) -> None:
    keys = {}
    for name in ("GPT-2", "GPT-2 in parts", "Llama", "OPT"):
        local = write_files(tmp_path / name.replace(" ", "-"), FILES[name])
        keys[name] = tokenizer(tmp_path, local).key
    # As of the version before this one, which gave OPT 6f460f4336f13208.
    assert keys == {
        "GPT-2": "afcff3006ed05350",
        "GPT-2 in parts": "3c745053f67fc384",
        "Llama": "c3f04c0433b5e538",
        "OPT": "f8d10e368904dfe9",
    }


def test_a_chosen_reading_decides_and_so_do_the_settings_that_it_reads(tmp_path: Path) -> None:
    local = write_files(tmp_path / "local", FILES["GPT-2"])
    plain = tokenizer(tmp_path, local)
    file, first = (
        tokenizer(tmp_path, f"{{source: {local}, reading: {reading}}}")
        for reading in ("file", "transformers")
    )
    assert decides(file) == decides(plain) | {"reading": "file"}
    assert set(decides(first)["settings"]) == {"tokenizer_config.json"}
    first_key = first.key
    (local / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "x": 1}')
    second = tokenizer(tmp_path, f"{{source: {local}, reading: transformers}}")
    assert len({plain.key, file.key, first_key, second.key}) == 4
    hub = tokenizer(tmp_path, "{source: some/model, reading: transformers}")
    assert decides(hub)["reading"] == "transformers"
    with pytest.raises(ConfigError, match="a trained one has only one reading"):
        tokenizer(tmp_path, "{train: 300, reading: file}")


def test_nothing_is_read_of_a_hub_id_or_of_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert token_ids("facebook/opt-125m", None) == TokenIds()
    assert token_ids(str(tmp_path / "nowhere"), None) == TokenIds()
