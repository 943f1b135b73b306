"""Settings besides the vocabulary that decide the token ids of a fetched tokenizer."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from hpcscale.atomic import sha256_file
from hpcscale.config.model import is_local
from hpcscale.data.end_of_text import adds_prefix_space, end_of_text, former_end_of_text
from hpcscale.errors import DataError
from hpcscale.plan.fingerprints import absolute_source
from hpcscale.plan.specs import TokenIds

Reading = Literal["file", "transformers"]

#: Files besides the vocabulary that transformers reads from a directory.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def token_ids(source: str, reading: Reading | None) -> TokenIds:
    """The settings that decide the token ids of a fetched tokenizer.

    A setting is given only where earlier versions, which read less of ``tokenizer_config.json``,
    produced other ids, so that all other results of theirs stay valid. Settings of a directory
    that the task refuses are left out.
    """
    folder = Path(absolute_source(source))
    if not is_local(source) or not folder.is_dir():
        return TokenIds(reading=reading)
    settings = None
    if reading == "transformers":
        files = [folder / name for name in _SETTINGS if (folder / name).is_file()]
        settings = {file.name: sha256_file(file) for file in files}
    changed, prefixed = None, None
    with suppress(DataError):
        former, now = former_end_of_text(folder), end_of_text(folder)
        changed = now.token if former not in (None, now.token) else None
        prefixed = adds_prefix_space(folder) or None
    return TokenIds(
        reading=reading, settings=settings, end_of_text=changed, add_prefix_space=prefixed
    )
