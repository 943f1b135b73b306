"""Task keys of every shipped sweep, literally: a key that moves makes finished work run again.

``HPCSCALE_WRITE_GOLDEN=1`` writes the file again, for a change that is meant to change results.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from planning import GOLDEN_SWEEPS, golden_tasks

GOLDEN = Path(__file__).parents[2] / "golden" / "keys.json"


@pytest.mark.parametrize("name", GOLDEN_SWEEPS)
def test_keys_are_the_golden_ones(name: str) -> None:
    found = {task.name: task.key for task in golden_tasks(name).graph}
    if os.environ.get("HPCSCALE_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(GOLDEN.read_text())[name]
