"""Task keys of every shipped sweep, literally: a key that moves makes finished work run again.

``HPCSCALE_WRITE_GOLDEN=1`` writes the file again, for a change that is meant to change results.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.config.data import CorpusConfig
from hpcscale.plan.build import build_tasks

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "keys.json"
_LOCAL = {"config.json": "c" * 64, "model.safetensors": "m" * 64, "tokenizer.json": "t" * 64}
#: name -> sweep file, overrides, and what a local model directory holds (None: a hub id).
SWEEPS: dict[str, tuple[str, tuple[str, ...], dict[str, str] | None]] = {
    **{path.stem: (path.name, (), None) for path in sorted((ROOT / "sweeps").glob("*.yaml"))},
    "quickstart-local-model": (
        "quickstart.yaml", ("model=./here", "tokenizer=./here", "data.packing=isolate"), _LOCAL,
    ),
    "influence-capture": ("influence.yaml", ("selection.1.way=capture",), None),
    "influence-direct": ("influence.yaml", ("selection.1.way=direct",), None),
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Fingerprints that do not depend on this machine."""

    local: dict[str, str] | None

    def corpus(self, spec: CorpusConfig) -> object:
        return spec.corpus

    def directory(self, source: str) -> dict[str, str] | None:
        return self.local


def keys_of(file: str, overrides: tuple[str, ...], local: dict[str, str] | None) -> dict[str, str]:
    config = load_sweep(ROOT / "sweeps" / file, (*overrides, "resources.score.shards=2"))
    tasks = build_tasks(config, "bf16", Sources(local))
    return {task.name: task.key for task in tasks.graph}


@pytest.mark.parametrize("name", SWEEPS)
def test_keys_are_the_golden_ones(name: str) -> None:
    found = keys_of(*SWEEPS[name])
    if os.environ.get("HPCSCALE_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(GOLDEN.read_text())[name]
