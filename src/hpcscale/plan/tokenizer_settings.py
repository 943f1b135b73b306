"""What decides the tokens of a fetched tokenizer beside its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcscale.atomic import sha256_file
from hpcscale.config.model import is_local
from hpcscale.data.end_of_text import adds_prefix_space, end_of_text, former_end_of_text
from hpcscale.errors import DataError
from hpcscale.plan.fingerprints import absolute_source

#: What transformers reads of a directory beside its vocabulary.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read_otherwise(source: str, reading: str | None) -> dict[str, Any]:
    """The fields of ``TokenizerSpec`` that are set.

    Only what versions that read less of ``tokenizer_config.json`` took otherwise, so that all else
    they made stays valid. A directory that the task refuses has no entry.
    """
    folder = Path(absolute_source(source))
    found: dict[str, Any] = {"reading": reading} if reading else {}
    if not is_local(source) or not folder.is_dir():
        return found
    if reading == "transformers":
        files = [folder / name for name in _SETTINGS if (folder / name).is_file()]
        found["settings"] = {file.name: sha256_file(file) for file in files}
    try:
        former, now = former_end_of_text(folder), end_of_text(folder)
        if former not in (None, now.token):
            found["end_of_text"] = now.token
        if adds_prefix_space(folder):
            found["add_prefix_space"] = True
    except DataError:
        pass
    return found
