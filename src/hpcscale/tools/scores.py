"""Tables of scores and what they are of, found in a run directory or given by path."""

from __future__ import annotations

from pathlib import Path

from hpcscale.atomic import read_json
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import load_tokenizer
from hpcscale.errors import DataError
from hpcscale.influence.inspect import Scored
from hpcscale.influence.score_table import read_table
from hpcscale.rundir.layout import SCORES, TASK, TOKENIZER
from hpcscale.tools.influence import store_folder


def find_scores(path: Path) -> list[Path]:
    """The tables of ``path``: itself, a merged task's, or all of a run directory.

    Raises DataError where there is none.
    """
    if path.is_file():
        return [path]
    found = [p for p in (path / SCORES,) if p.exists()] or sorted(
        path.glob(f"scores/*/merged-*/{SCORES}")
    )
    if not found:
        raise DataError(
            f"{path} holds no scores; give a {SCORES}, or a run directory whose scores are done"
        )
    return found


def open_scores(path: Path, data: Path | None, tokenizer: Path | None) -> Scored:
    """A table with its texts. ``data`` and ``tokenizer`` default to those of the run directory
    that ``path`` is in; without either the texts are not known."""
    if data is None or tokenizer is None:
        of_run = _of_run(path)
        data, tokenizer = data or of_run[0], tokenizer or of_run[1]
    store = None if data is None else TokenStore.open(store_folder(data))
    loaded = None if tokenizer is None else load_tokenizer(_tokenizer_folder(tokenizer))
    return Scored(path, read_table(path), store, loaded)


def _tokenizer_folder(path: Path) -> Path:
    return path / TOKENIZER if (path / TOKENIZER).is_dir() else path


def _of_run(path: Path) -> tuple[Path | None, Path | None]:
    """The pool's store and the tokenizer that the inputs of the table's task name."""
    spec = path.parent / TASK
    if not spec.exists():
        return None, None
    run_dir = path.absolute().parents[3]
    pool = run_dir / read_json(spec)["inputs"]["pool"][0]["id"]
    if not (pool / TASK).exists():
        return None, None
    return pool, run_dir / read_json(pool / TASK)["inputs"]["tokenizer"][0]["id"]
