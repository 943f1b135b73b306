"""What an earlier version left behind, against the manifests that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcscale.atomic import write_done
from hpcscale.errors import DataError
from hpcscale.pipeline.checks import check
from hpcscale.pipeline.outdated import refuse_outdated
from hpcscale.pipeline.sweep import Sweep, open_sweep
from support import SWEEP

#: As version 0.1 wrote it for a cut archive.
CUT = {
    "place": "/data/docs.jsonl.gz:227",
    "reason": "the file is damaged or cut off: Compressed file ended before the end-of-stream "
    "marker was reached",
}
OTHER = {"place": "/data/docs.jsonl:3", "reason": "not JSON: Expecting value: line 1 column 1"}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    texts = tmp_path / "docs.jsonl"
    texts.write_text('{"text": "some words"}\n')
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(root=tmp_path / "runs", texts=texts))
    return open_sweep(file, (), "local")


def finish(sweep: Sweep, role: str, broken: list[dict[str, str]]) -> Path:
    task = sweep.pipeline.stores[role]  # type: ignore[index]
    store = sweep.run_dir / task.id / "store"
    store.mkdir(parents=True)
    manifest: dict[str, Any] = {"read": {"broken": len(broken), "first_broken": broken}}
    (store / "manifest.json").write_text(json.dumps(manifest))
    write_done(store.parent, task.key, ["store/manifest.json"])
    return store


def test_a_store_of_a_damaged_file_is_refused_with_the_way_out(sweep: Sweep) -> None:
    refuse_outdated(sweep)
    finish(sweep, "eval", [OTHER])
    refuse_outdated(sweep)
    finish(sweep, "pool", [OTHER, CUT])
    with pytest.raises(DataError) as caught:
        check(sweep, sweep.plan())
    message = str(caught.value)
    for part in ("data.pool", "/data/docs.jsonl.gz:227", "end-of-stream marker",
                 "Fetch the file again", "--set name=NAME"):  # fmt: skip
        assert part in message


def test_a_store_of_other_settings_does_not_matter(sweep: Sweep) -> None:
    store = finish(sweep, "pool", [CUT])
    write_done(store.parent, "another key", ["store/manifest.json"])
    refuse_outdated(sweep)
