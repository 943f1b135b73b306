"""The token that ends each text of a sweep, as the plan shows it."""

from __future__ import annotations

from pathlib import Path

from hpcscale.atomic import read_done, read_json
from hpcscale.config.model import is_local
from hpcscale.data.end_of_text import Vocabulary, end_of_text
from hpcscale.errors import DataError
from hpcscale.opened import Sweep
from hpcscale.plan.fingerprints import absolute_source
from hpcscale.rundir.layout import STORE, TOKENIZER


def separator_lines(sweep: Sweep) -> list[str]:
    """The plan's line; empty where the tokenizer is on the hub or not trained yet."""
    folders = _folders(sweep)
    if not folders:
        return []
    try:
        return [f"end of text: {end_of_text(folders[0])}"]
    except DataError as error:
        return [f"end of text: unknown: {error}"]


def separator_changed(sweep: Sweep) -> str | None:
    """A sentence where the stores end texts with another token than their tokenizer names.

    Earlier versions took ``<|endoftext|>`` wherever a vocabulary held it.
    """
    store = sweep.tasks.shared.stores["eval"]
    if read_done(sweep.run_dir / store.id, store.key) is None:
        return None
    used = read_json(sweep.run_dir / store.id / STORE / "manifest.json")["eot_id"]
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
    """The folders with the sweep's tokenizer: in the run directory, and its local source."""
    task, source = sweep.tasks.shared.tokenizer, sweep.config.tokenizer.source
    found = []
    if read_done(sweep.run_dir / task.id, task.key) is not None:
        found.append(sweep.run_dir / task.id / TOKENIZER)
    if source is not None and is_local(source):
        found.append(Path(absolute_source(source)))
    return found
