"""Each type of causal model is right or refused by name, and docs/models.md says which.

``HPCSCALE_FAMILY_TABLE=docs/models.md`` writes the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import families
from families import COLUMNS, RIGHT

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "models.md"
#: The types that people train on, and one of each way to be refused.
COMMON = (
    "bloom cpmant falcon gemma2 gemma3_text gpt2 gpt_neox llama mamba mistral olmo2 opt phi3 "
    "phimoe qwen2 qwen3"
).split()
_TABLE = re.compile(r"(<!-- families -->\n).*(<!-- end of families -->)", re.DOTALL)


def outcomes_of(kinds: list[str], timeout: float) -> dict[str, dict[str, str]]:
    """In a process of its own, which forks one for each."""
    done = subprocess.run(
        [sys.executable, "-m", "families", *kinds],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
        cwd=Path(families.__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    found = {kind: json.loads(text) for kind, _, text in lines}
    return {kind: outcome for kind, outcome in found.items() if outcome is not None}


def row(kind: str, outcome: dict[str, str]) -> str:
    return f"| `{kind}` | " + " | ".join(outcome[column] for column in COLUMNS) + " |"


def table(found: dict[str, dict[str, str]]) -> str:
    head = [f"| type | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    return "\n".join([*head, *(row(*one) for one in sorted(found.items()))]) + "\n"


def check(found: dict[str, dict[str, str]]) -> None:
    verdicts = {verdict for outcome in found.values() for verdict in outcome.values()}
    wrong = {v for v in verdicts if v != RIGHT and not v.startswith("refused: ")}
    assert not wrong, found


def test_common_types_are_right_or_refused_as_the_page_says() -> None:
    found = outcomes_of(COMMON, 300)
    assert sorted(found) == COMMON
    check(found)
    page = PAGE.read_text(encoding="utf-8").splitlines()
    for kind, outcome in found.items():
        assert row(kind, outcome) in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_type_is_right_or_refused() -> None:
    found = outcomes_of([], 1700)
    check(found)
    assert len(found) >= 100
    target = os.environ.get("HPCSCALE_FAMILY_TABLE")
    if target:
        page = (REPOSITORY / target).read_text(encoding="utf-8")
        written = _TABLE.sub(lambda match: match[1] + table(found) + match[2], page)
        (REPOSITORY / target).write_text(written, encoding="utf-8")
    assert table(found) in PAGE.read_text(encoding="utf-8")
