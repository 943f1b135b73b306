"""What docs/adding-a-method.md and docs/adding-a-back-end.md show, run as a user would run it."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from documented import install
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import load_tokenizer
from support import Run, write_sweep

LEXICON = "selection=[random, {name: code, method: lexicon, words: [def, return, for], share: 0.5}]"
SMALL = ("--set", "budgets=[2k]")


def only(run: Path, pattern: str) -> Path:
    (found,) = run.glob(pattern)
    return found


def test_a_method_brings_its_scorer(tmp_path: Path, hpcscale: Run, sweep_file: Path) -> None:
    path = install("adding-a-method.md", tmp_path / "site")
    words = ("sweep", sweep_file, "--executor", "local", "--set", LEXICON, *SMALL)
    more = ("--set", "resources.score={shards: 2, ranks: 2}")
    hpcscale(*words, *more, PYTHONPATH=path)
    run = tmp_path / "runs" / "tiny"
    table = pq.read_table(only(run, "scores/lexicon-*/merged-*/scores.parquet")).to_pandas()
    store = TokenStore.open(only(run, "data/pool-*/store"))
    assert table["id"].tolist() == store.ids.tolist()
    assert set(table["domain"]) == {"sea", "code"}
    assert (table.groupby("domain")["score"].mean()["sea"]) == 0
    chosen = pq.read_table(only(run, "selections/code-*/selection.parquet"))["id"].to_numpy()
    best = table["id"].to_numpy()[np.argsort(-table["score"].to_numpy())[: round(len(table) / 2)]]
    floor = table["score"][table["id"].isin(best)].min()
    assert table["score"][table["id"].isin(chosen)].min() >= floor
    with open(run / "analysis" / "costs.csv", encoding="utf-8") as handle:
        (row,) = (row for row in csv.DictReader(handle) if row["stage"] == "score")
    assert (row["method"], row["tasks"], float(row["flops"])) == ("code", "2", 0.0)
    # Another number of shards leaves the scores as they are; nothing is started again.
    assert "nothing to start" in hpcscale(*words, PYTHONPATH=path).stdout


@pytest.mark.slow
def test_an_interrupted_scorer_continues_behind_what_it_had(
    tmp_path: Path, hpcscale: Run, sweep_file: Path
) -> None:
    path = install("adding-a-method.md", tmp_path / "site")
    module = Path(path) / "my_package" / "lexicon.py"
    whole = module.read_text()
    counted = whole.replace(
        "        known = set",
        "        with open('calls', 'a') as calls:\n"
        "            calls.write('x')\n"
        "        if open('calls').read() == 'xx':\n"
        "            raise KeyboardInterrupt\n"
        "        known = set",
    ).replace("Params = Words\n", "Params = Words\n    batch = 64\n", 1)
    module.write_text(counted)
    words = ("sweep", sweep_file, "--executor", "debug", "--set", LEXICON, *SMALL)
    hpcscale(*words, check=130, PYTHONPATH=path)
    done = hpcscale(*words, PYTHONPATH=path)
    assert "2 of 2 cells done" in done.stdout
    run = tmp_path / "runs" / "tiny"
    documents = TokenStore.open(only(run, "data/pool-*/store")).n_documents
    assert len((tmp_path / "calls").read_text()) == -(-documents // 64) + 1


def test_a_filter_of_the_pool(tmp_path: Path, hpcscale: Run, texts: Path) -> None:
    path = install("adding-a-filter.md", tmp_path / "site")
    lines = texts.read_text().splitlines()
    copies = [json.loads(line) for line in lines[:400]]
    for copy in copies:
        copy["text"] += " indeed"
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text("\n".join([*lines, *map(json.dumps, copies)]) + "\n")
    file = write_sweep(tmp_path, doubled)
    pool = f"data.pool={{corpus: files, path: {doubled}}}"
    words = ("sweep", file, "--executor", "local", "--set", pool, *SMALL)
    hpcscale(*words, "--set", "selection=[random]", PYTHONPATH=path)
    run = tmp_path / "runs" / "tiny"
    near = "data.filters=[{filter: near-duplicates, words: 3}]"
    hpcscale(*words, "--set", near, PYTHONPATH=path)
    whole = TokenStore.open(only(run, "data/pool-????????/store"))
    kept = TokenStore.open(only(run, "data/pool-near-duplicates-*/store"))
    dropped = kept.manifest["filtered"][0]["dropped_documents"]
    assert dropped == whole.n_documents - kept.n_documents
    assert set(kept.ids.tolist()) < set(whole.ids.tolist())
    for row in (0, kept.n_documents - 1):
        (place,) = whole.index_of([kept.ids[row]])
        assert np.array_equal(kept.tokens(row), whole.tokens(int(place)))
    # Of a text and its copy with one more word, one stays; few others share enough.
    pairs = whole.n_documents - len({text[:40] for text in texts_of(run, whole)})
    assert pairs > 50
    assert pairs <= dropped <= 1.3 * pairs
    # Every stage reads the filtered pool, and the unfiltered sweep beside it is left alone.
    table = pq.read_table(only(run, "scores/perplexity-base/merged-*/scores.parquet"))
    assert table["id"].to_pylist() == kept.ids.tolist()
    chosen = [pq.read_table(p)["id"] for p in run.glob("selections/random-*/selection.parquet")]
    assert len(chosen) == 2
    assert sum(set(ids.to_pylist()) <= set(kept.ids.tolist()) for ids in chosen) == 1
    setting = json.loads((run / "analysis" / "setting.json").read_text())
    assert setting["data"]["filters"] == [{"filter": "near-duplicates", "words": 3}]
    assert setting["data"]["pool"]["held"]["documents"] == kept.n_documents
    refused = hpcscale(
        *words, "--set", "data.filters=[near-duplicate]", check=None, PYTHONPATH=path
    )
    assert "there is no filter `near-duplicate`; did you mean `near-duplicates`?" in refused.stderr
    bad = "data.filters=[{filter: near-duplicates, word: 3}]"
    refused = hpcscale(*words, "--set", bad, check=None, PYTHONPATH=path)
    assert "data.filters: `near-duplicates`: `word`: there is no such parameter; did you mean" in (
        refused.stderr
    )


def texts_of(run: Path, store: TokenStore) -> list[str]:
    tokenizer = load_tokenizer(only(run, "data/tokenizer-*/tokenizer"))
    return [tokenizer.decode(store.tokens(i).tolist()) for i in range(store.n_documents)]


@pytest.mark.slow
def test_faults_of_a_scorer_are_told(tmp_path: Path, hpcscale: Run, sweep_file: Path) -> None:
    path = install("adding-a-method.md", tmp_path / "site")
    module = Path(path) / "my_package" / "lexicon.py"
    whole = module.read_text()
    words = ("sweep", sweep_file, "--executor", "debug", "--set", LEXICON, *SMALL)
    module.write_text(whole.replace('"lexicon", {"words"', '"lexicons", {"words"'))
    said = hpcscale(*words, check=None, PYTHONPATH=path)
    assert said.returncode != 0
    assert (
        "there is no scorer `lexicons`; did you mean `lexicon`? installed: perplexity, tracin"
        in (said.stderr)
    )
    module.write_text(whole.replace('{"words": self', '{"word": self'))
    said = hpcscale(*words, check=None, PYTHONPATH=path)
    assert "the scorer `lexicon`: `words`: Field required" in said.stderr
    assert not (tmp_path / "runs").exists()
    module.write_text(whole.replace("max(len(text), 1)", "np.float64(0)"))
    said = hpcscale(*words, check=None, PYTHONPATH=path)
    assert "`score` must return finite numbers" in said.stderr
    assert "1 of 2 cells done" in said.stdout


def test_a_queue_from_outside_runs_a_sweep(tmp_path: Path, hpcscale: Run, sweep_file: Path) -> None:
    path = install("adding-a-back-end.md", tmp_path / "site")
    words = ("sweep", sweep_file, "--executor", "bash", *SMALL)
    said = hpcscale(*words, PYTHONPATH=path)
    assert said.stdout.count("submitted train: job") == 2
    run = tmp_path / "runs" / "tiny"
    record = json.loads(only(run, "cells/random-*/job.json").read_text())
    assert record["executor"] == "bash"
    again = hpcscale(*words, PYTHONPATH=path)
    assert "nothing to start" in again.stdout or "submitted" not in again.stdout
    end = time.monotonic() + 240
    while not (run / "analysis" / "done.json").exists() and time.monotonic() < end:
        time.sleep(1)
    shown = hpcscale("status", run, PYTHONPATH=path).stdout
    assert "missing" not in shown, shown
    assert "failed" not in shown
    assert len(list(run.glob("evaluations/*/done.json"))) == 2
    refused = hpcscale("status", run, check=None)
    assert refused.returncode != 0
    assert "--executor bash: there is no such back end" in refused.stderr
