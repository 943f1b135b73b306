"""A sweep small enough to run whole in a test: real files, real training, seconds."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from support import SWEEP, Run, command

@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a small grammar, in two domains."""
    rng = random.Random(7)
    words = {
        "sea": "the ship sails over a deep blue water and turns to the far shore with wind".split(),
        "code": "def value return for item in range if not none else print sum of list".split(),
    }
    path = tmp_path_factory.mktemp("texts") / "docs.jsonl"
    with open(path, "w", encoding="utf-8") as handle:
        for index in range(1500):
            domain = ("sea", "code")[index % 2]
            text = " ".join(rng.choices(words[domain], k=rng.randint(10, 60))) + f" {index}"
            handle.write(json.dumps({"text": text, "domain": domain}) + "\n")
    return path


@pytest.fixture
def sweep_file(tmp_path: Path, texts: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP.format(root=tmp_path / "runs", texts=texts))
    return path


@pytest.fixture
def hpcscale(tmp_path: Path) -> Run:
    """Call the command line as a user would, in a folder of its own."""

    def run(*words: object, check: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words), capture_output=True, text=True, cwd=tmp_path, timeout=300,
            env={**os.environ, **env}, check=False,
        )  # fmt: skip
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run
