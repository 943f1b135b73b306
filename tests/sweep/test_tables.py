"""The tables that the analysis gets, against what the tasks of a real sweep left."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from hpcscale.atomic import read_json
from hpcscale.errors import TaskError
from hpcscale.plan.specs import AnalyseSpec
from hpcscale.results.collect import collect
from hpcscale.results.costs import collect_costs
from hpcscale.results.curves import collect_curves
from hpcscale.results.setting import collect_setting
from hpcscale.rundir.layout import COSTS, CURVES, OVERLAP, RESULTS
from hpcscale.rundir.task_file import read_task_file
from support import INFLUENCE, command, write_sweep

_PLAIN = {"method": "tracin", "preconditioner": "none", "normalise": "none"}
SELECTION: list[object] = [
    "random",
    {"name": "middle", "method": "perplexity", "keep": "middle", "rate": 0.5},
    {"name": "dumped", "way": "dump", **_PLAIN},
    {"name": "direct", "way": "direct", **_PLAIN},
]
METHODS = ["random", "middle", "dumped", "direct"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    changed = {"selection": SELECTION, "budgets": ["2k", "4k"], "seeds": [3]}
    file = write_sweep(folder, texts, INFLUENCE, name="tables", **changed)
    done = subprocess.run(
        command("sweep", file, "--executor", "debug"), capture_output=True, text=True, check=False
    )
    assert "8 of 8 cells done" in done.stdout, done.stdout + done.stderr
    return folder / "runs" / "tables"


def spec_of(run: Path) -> AnalyseSpec:
    return read_task_file(run, "analysis").spec(AnalyseSpec)


@pytest.fixture(scope="module")
def tables(run: Path) -> dict[str, pd.DataFrame]:
    frames, missing = collect(run, spec_of(run))
    assert missing == []
    return frames


def of_cell(frame: pd.DataFrame, method: str, tokens: int) -> pd.DataFrame:
    return frame[(frame["method"] == method) & (frame["tokens"] == tokens)]


def only(run: Path, pattern: str) -> Path:
    (path,) = run.glob(pattern)
    return path


def test_a_result_says_what_made_it(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    results = tables[RESULTS]
    assert len(results) == 8
    for row in results.itertuples():
        assert row.fingerprint == read_json(run / str(row.cell) / "done.json")["key"]
        assert (row.batch_tokens, row.learning_rate, row.schedule) == (256, 1e-3, "cosine")


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_is_what_training_logged(
    run: Path, tables: dict[str, pd.DataFrame], method: str
) -> None:
    curve = of_cell(tables[CURVES], method, 4000)
    file = only(run, f"cells/{method}-4k-s3-*/metrics.jsonl")
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    assert curve["step"].tolist() == [0, *(line["step"] for line in logged)]
    assert curve["train_loss"].tolist()[1:] == [line["loss"] for line in logged]
    assert curve["learning_rate"].tolist()[1:] == [line["lr"] for line in logged]
    assert curve["tokens_seen"].iloc[-1] == 4000
    result = of_cell(tables[RESULTS], method, 4000).iloc[0]
    assert curve["eval_loss"].dropna().tolist() == [result["base_loss"], result["loss"]]


def test_a_thinned_curve_keeps_its_ends(run: Path) -> None:
    thin = pd.DataFrame(collect_curves(run, spec_of(run), points=6))
    curve = of_cell(thin, "random", 4000)
    assert curve["step"].tolist() == [0, 1, 5, 9, 12, 16]
    assert curve["eval_loss"].notna().tolist() == [True, *[False] * 4, True]


def test_overlap_counts_the_documents_and_tokens_that_two_files_share(
    run: Path, tables: dict[str, pd.DataFrame]
) -> None:
    overlap = tables[OVERLAP]
    assert len(overlap) == 2 * 6
    for row in overlap.itertuples():
        a, b = (
            dict(zip(*(table[name].to_pylist() for name in ("id", "tokens")), strict=True))
            for method in (row.method_a, row.method_b)
            for table in [
                pq.read_table(
                    only(run, f"selections/{method}-{row.tokens // 1000}k-s3-*/selection.parquet")
                )
            ]
        )
        shared = a.keys() & b.keys()
        assert (row.documents_a, row.documents_b) == (len(a), len(b))
        assert row.shared_documents == len(shared)
        assert row.jaccard == pytest.approx(len(shared) / len(a.keys() | b.keys()))
        assert row.shared_tokens == sum(min(a[i], b[i]) for i in shared)
        most = sum(max(a.get(i, 0), b.get(i, 0)) for i in a.keys() | b.keys())
        assert row.token_jaccard == pytest.approx(row.shared_tokens / most)
    ways = overlap[(overlap["method_a"] == "dumped") & (overlap["method_b"] == "direct")]
    # The same scores in two ways, ties in rounding apart.
    assert (ways["jaccard"] > 0.9).all()


def test_selection_costs_the_passes_that_were_made(
    run: Path, tables: dict[str, pd.DataFrame]
) -> None:
    costs = tables[COSTS].set_index(["method", "stage"])
    assert set(tables[COSTS]["method"]) == {"middle", "dumped", "direct"}
    config = read_json(only(run, "base/model-*/model/config.json"))
    forward = 2 * (12 * 32**2 + config["vocab_size"] * 32) + 4 * 32 * 32
    counts = {
        role: read_json(only(run, f"data/{role}-*/done.json"))["facts"]["counts"]["tokens"]
        for role in ("pool", "query")
    }
    pool, query = counts["pool"], counts["query"]
    passes = {
        ("middle", "score"): pool,
        ("middle", "select"): 0,
        ("dumped", "proxy"): 3 * 6000,
        ("dumped", "dump"): 3 * 2 * (pool + query),
        ("dumped", "influence"): 0,
        ("direct", "proxy"): 3 * 6000,
        # Each of three shards takes the queries' gradient again.
        ("direct", "dump"): 3 * 2 * (pool + 3 * query),
        ("direct", "influence"): 0,
    }
    assert set(costs.index) == set(passes)
    for place, tokens in passes.items():
        assert costs.loc[place, "flops"] == pytest.approx(forward * tokens), place
    assert costs.loc[("dumped", "proxy"), "shared_with"] == "direct"
    assert costs.loc[("dumped", "dump"), "shared_with"] == ""
    assert costs.loc[("dumped", "dump"), "tasks"] == 2 * (3 + 1)
    assert set(costs["device"]) == {"cpu"}


def test_device_hours_are_those_of_all_attempts(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    attempts = only(again, "influence/proxy-*/attempts.jsonl")
    line = {"outcome": "preempted", "host": "a", "world_size": 4, "seconds": 1800.0}
    attempts.write_text(json.dumps(line) + "\n" + attempts.read_text())
    first, second = (
        pd.DataFrame(collect_costs(folder, spec_of(run))).set_index(["method", "stage"])
        for folder in (run, again)
    )
    spent = (second["device_hours"] - first["device_hours"]).loc["direct"]
    assert spent["proxy"] == pytest.approx(2.0)
    assert spent["dump"] == spent["influence"] == 0


def test_what_an_older_run_did_not_write_stays_empty(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "run"
    shutil.copytree(run, old)
    for done in old.glob("scores/*/shard-*/done.json"):
        marker = read_json(done)
        del marker["facts"]["device"]
        done.write_text(json.dumps(marker))
    only(old, "scores/perplexity-base/shard-*/attempts.jsonl").write_text(
        json.dumps({"outcome": "done", "world_size": 1, "seconds": 1.0}) + '\n{"outcome": "pree'
    )
    for record in old.glob("influence/proxy-*/record.json"):
        record.unlink()
    spec = spec_of(run)
    costs = pd.DataFrame(collect_costs(old, spec)).set_index(["method", "stage"])
    assert costs.loc[("middle", "score"), "device"] == ""
    assert costs.loc[("middle", "score"), "flops"] > 0
    assert pd.isna(costs.loc[("dumped", "dump"), "flops"])
    assert costs.loc[("dumped", "dump"), "device_hours"] > 0
    shutil.rmtree(only(old, "cells/middle-2k-*"))
    frames, missing = collect(old, spec)
    assert missing == ["middle-2k-s3"]
    assert len(frames[OVERLAP]) == 6 + 3


def test_the_setting_answers_the_checklist(run: Path) -> None:
    setting = collect_setting(run, spec_of(run))
    (call,) = (run / "calls.jsonl").read_text().splitlines()
    assert setting["code"]["git"] == [json.loads(call)["git"]]
    assert json.loads(json.dumps(setting, allow_nan=False)) == setting
    config = read_json(only(run, "base/model-*/model/config.json"))
    # Embeddings of tokens and places, a block's matrices and biases, and three norms.
    block = 12 * 32**2 + 13 * 32
    assert setting["model"]["parameters"] == (config["vocab_size"] + 32) * 32 + block + 2 * 32
    assert setting["training"]["runs"] == 8
    assert setting["training"]["seeds"] == [3]
    assert setting["training"]["precision"] == "fp32"
    assert setting["evaluation"]["tokens"] == sum(setting["evaluation"]["domains"].values()) == 2000
    assert setting["data"]["pool"]["held"]["tokens"] >= 12_000
    assert [m["name"] for m in setting["selection"]] == METHODS
    assert setting["hardware"]["ranks"] == 1


def test_no_cell_is_an_error_that_says_where_to_look(run: Path) -> None:
    spec = spec_of(run).model_copy(update={"cells": ()})
    with pytest.raises(TaskError, match=r"no cell of .* is done; `hpcscale status"):
        collect(run, spec)
