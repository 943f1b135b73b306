"""What decides the tokens of a fetched tokenizer beside its vocabulary."""

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

#: What transformers reads of a directory beside its vocabulary.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def token_ids(source: str, reading: Reading | None) -> TokenIds:
    """What decides the token ids of a fetched tokenizer.

    Only what versions that read less of ``tokenizer_config.json`` took otherwise, so that all else
    they made stays valid. A directory that the task refuses has no entry.
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
