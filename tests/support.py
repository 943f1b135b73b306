"""What several test folders use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: Small enough to run whole in a test. Placeholders: root, texts.
SWEEP = """\
name: tiny
root: {root}
model:
  scratch: {{layers: 1, width: 32, heads: 2}}
  pretrain: {{lr: 3e-3}}
tokenizer: {{train: 300}}
data:
  sequence_length: 32
  base: {{corpus: files, path: {texts}, tokens: 4k}}
  pool: {{corpus: files, path: {texts}, tokens: 24k}}
  eval: {{corpus: files, path: {texts}, tokens: 3k}}
selection:
  - random
  - {{name: middle, method: perplexity, keep: middle, rate: 0.5}}
budgets: [2k, 4k, 8k]
seeds: [0]
train: {{global_batch: 256, micro_batch: 8, lr: 1e-3}}
"""


#: As small, with scores of two tracin methods. Placeholders: root, texts.
INFLUENCE = """\
name: influence
root: {root}
model:
  scratch: {{layers: 1, width: 32, heads: 2}}
  pretrain: {{lr: 3e-3}}
tokenizer: {{train: 300}}
data:
  sequence_length: 32
  base: {{corpus: files, path: {texts}, tokens: 4k}}
  pool: {{corpus: files, path: {texts}, tokens: 12k}}
  query: {{corpus: files, path: {texts}, tokens: 2k}}
  eval: {{corpus: files, path: {texts}, tokens: 2k}}
influence:
  proxy: {{tokens: 6k, checkpoints: 2}}
  projection: none
selection:
  - {{name: dumped, method: tracin, preconditioner: none, normalise: none}}
  - {{name: direct, method: tracin, preconditioner: none, normalise: none, way: direct}}
budgets: [2k]
seeds: [0]
train: {{global_batch: 256, micro_batch: 8, lr: 1e-3}}
resources: {{dump: {{shards: 3}}}}
"""


def write_sweep(folder: Path, texts: Path, text: str = SWEEP, **sections: object) -> Path:
    """A sweep file in ``folder``, named as its sweep, whose run directory lies in ``runs``.

    sections: merged into those of the text; lists and single values replace them.
    """
    text = text.format(root=folder / "runs", texts=texts)
    values = yaml.safe_load(text)
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in sections.items():
        merged = isinstance(given, dict) and isinstance(values.get(name), dict)
        values[name] = values[name] | given if merged else given
    path: Path = folder / f"{values['name']}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False) if sections else text)
    return path


def command(*words: object) -> list[str]:
    """The command line of this environment."""
    return [sys.executable, "-m", "hpcscale.cli.main", *map(str, words)]


_SEA = "the ship sails over a deep blue water and turns to the far shore with wind"
_CODE = "def value return for item in range if not none else print sum of list"


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a small grammar, in two domains."""
    rng = random.Random(7)
    words = {"sea": _SEA.split(), "code": _CODE.split()}
    path = tmp_path_factory.mktemp("texts") / "docs.jsonl"
    with open(path, "w", encoding="utf-8") as handle:
        for index in range(1500):
            domain = ("sea", "code")[index % 2]
            text = " ".join(rng.choices(words[domain], k=rng.randint(10, 60))) + f" {index}"
            handle.write(json.dumps({"text": text, "domain": domain}) + "\n")
    return path


@pytest.fixture
def hpcscale(tmp_path: Path) -> Run:
    """Call the command line as a user would, in a folder of its own."""

    def run(*words: object, check: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            env={**os.environ, **env},
            check=False,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run
