"""Real books and the real GPT-2 tokenizer through a whole sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from support import Run

BOOKS = """\
name: books
root: {root}
model:
  scratch: {{layers: 2, width: 64, heads: 2}}
  pretrain: {{lr: 3e-3}}
tokenizer: {shared}/gpt2-tokenizer
data:
  sequence_length: 128
  base: {{corpus: files, path: {shared}/books/train.jsonl.gz, share: 0.2, tokens: 20k}}
  pool: {{corpus: files, path: {shared}/books/train.jsonl.gz, share: 0.8, tokens: 60k}}
  eval: {{corpus: files, path: {shared}/books/validation.jsonl.gz, tokens: 6k}}
selection:
  - random
  - {{name: low, method: perplexity, keep: low, rate: 0.5}}
budgets: [4k, 8k, 16k]
seeds: [0]
train: {{global_batch: 1024, micro_batch: 4, lr: 2e-3}}
"""


def test_books_with_gpt2s_tokenizer(shared_data: Path, tmp_path: Path, hpcscale: Run) -> None:
    file = tmp_path / "books.yaml"
    file.write_text(BOOKS.format(root=tmp_path / "runs", shared=shared_data))
    done = hpcscale("sweep", file, "--executor", "local")
    assert "6 of 6 cells done" in done.stdout
    run = tmp_path / "runs" / "books"
    (manifest,) = run.glob("data/pool-*/store/manifest.json")
    facts = json.loads(manifest.read_text())
    assert facts["vocab_size"] == 50257
    assert set(facts["domain_names"]) == {"travel", "music", "drill", "novel"}
    with open(run / "analysis" / "results.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    base = float(rows[0]["base_loss"])
    random = {int(r["tokens"]): float(r["loss"]) for r in rows if r["method"] == "random"}
    assert random[4000] > random[8000] > random[16000], "losses fall with the budget"
    assert random[16000] < base
    assert all(int(r["eval_tokens"]) == 6_000 for r in rows)
