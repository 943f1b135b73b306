"""What several test folders use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

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


def command(*words: object) -> list[str]:
    """The command line of this environment."""
    return [sys.executable, "-m", "hpcscale.cli.main", *map(str, words)]
