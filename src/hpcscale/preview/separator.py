"""The token that ends each text of a sweep: what the plan says of it, and what it decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcscale.atomic import read_done, read_json, sha256_file
from hpcscale.config.model import is_local
from hpcscale.data.end_of_text import (
    Vocabulary,
    adds_prefix_space,
    end_of_text,
    former_end_of_text,
)
from hpcscale.errors import DataError
from hpcscale.plan.fingerprints import absolute_source

if TYPE_CHECKING:
    from hpcscale.opened import Sweep


#: What transformers reads of a directory beside its vocabulary.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read_otherwise(source: str, reading: str | None) -> dict[str, Any]:
    """What decides the tokens of a fetched tokenizer beside its vocabulary.

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


def separator_lines(sweep: Sweep) -> list[str]:
    """The plan's line; none where the tokenizer is on the hub or not trained yet."""
    folders = _folders(sweep)
    if not folders:
        return []
    try:
        return [f"end of text: {end_of_text(folders[0])}"]
    except DataError as error:
        return [f"end of text: unknown: {error}"]


def separator_changed(sweep: Sweep) -> str | None:
    """A sentence where the stores of a run directory end texts otherwise than its tokenizer says.

    Earlier versions took ``<|endoftext|>`` wherever a vocabulary held it.
    """
    store = sweep.pipeline.stores["eval"]
    if read_done(sweep.run_dir / store.id, store.key) is None:
        return None
    used = read_json(sweep.run_dir / store.id / "store" / "manifest.json")["eot_id"]
    for folder in _folders(sweep):
        try:
            own = end_of_text(folder)
        except DataError:
            continue
        if own.id != used:
            token = Vocabulary(folder).token_of(used)
            return (
                f"the token stores of {sweep.run_dir} end texts with {token} (token {used}), the "
                f"model's own end of text is {own}; start another run directory with "
                "--set name=NAME"
            )
    return None


def _folders(sweep: Sweep) -> list[Path]:
    """Where the sweep's tokenizer lies: in the run directory, and in its local source."""
    task, source = sweep.pipeline.tokenizer, sweep.config.tokenizer.source
    found = []
    if read_done(sweep.run_dir / task.id, task.key) is not None:
        found.append(sweep.run_dir / task.id / "tokenizer")
    if source is not None and is_local(source):
        found.append(Path(absolute_source(source)))
    return found
