"""Influence in a whole sweep: equal ways, shards lost and broken, kills, and the stages by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hpcscale.influence.requests import Aggregation, Measure
from hpcscale.influence.sketch import Projection
from hpcscale.tools import influence as by_hand
from support import INFLUENCE, Run, command, write_sweep


def scores(run: Path, name: str) -> np.ndarray:  # type: ignore[type-arg]
    (path,) = run.glob(f"scores/{name}/merged-*/scores.parquet")
    values: np.ndarray = pq.read_table(path)["score"].to_numpy()  # type: ignore[type-arg]
    return values


def attempts(run: Path) -> dict[str, int]:
    """How often each task was run to an end."""
    return {
        str(p.parent.relative_to(run)): len(p.read_text().splitlines())
        for p in run.rglob("attempts.jsonl")
    }


def wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not come in time")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    folder = tmp_path_factory.mktemp("influence")
    asked = {"dtype": "fp32", "batch_tokens": 256}
    return write_sweep(folder, texts, INFLUENCE, data={"packing": "isolate"}, influence=asked)


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    """The run directory of a sweep that nothing disturbed."""
    words = command("sweep", file, "--executor", "local")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 cells done" in done.stdout
    assert "influence: 1 proxy, 8 gradients, 6 block, 6 direct tasks" in done.stdout
    return file.parent / "runs" / "influence"


def test_a_store_and_none_give_the_same_scores(run: Path) -> None:
    dumped, direct = scores(run, "tracin-dump-mean"), scores(run, "tracin-direct-mean")
    assert np.linalg.norm(dumped - direct) < 1e-5 * np.linalg.norm(direct)
    ids = [
        pq.read_table(next(run.glob(f"selections/{m}-*/selection.parquet")))["id"].to_pylist()
        for m in ("dumped", "direct")
    ]
    assert ids[0] == ids[1]


def test_a_second_call_starts_nothing(run: Path, file: Path, hpcscale: Run) -> None:
    before = attempts(run)
    assert "nothing to start" in hpcscale("sweep", file, "--executor", "local").stdout
    assert attempts(run) == before


def copy_of(run: Path, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A run directory of one's own to break, and the ``--set`` that finds it."""
    shutil.copytree(run, tmp_path / "runs" / "influence")
    return tmp_path / "runs" / "influence", ("--set", f"root={tmp_path / 'runs'}")


def changed(run: Path, before: dict[str, int]) -> set[str]:
    return {name for name, count in attempts(run).items() if count != before.get(name)}


def test_a_lost_and_a_truncated_shard_are_made_again_and_nothing_else(
    run: Path, file: Path, hpcscale: Run, tmp_path: Path
) -> None:
    mine, where = copy_of(run, tmp_path)
    lost, cut = sorted(mine.glob("influence/pool-checkpoint*/shard-*"))[1:5:3]
    whole = np.load(cut / "gradients-00000.npy")
    shutil.rmtree(lost)
    with open(cut / "gradients-00000.npy", "r+b") as handle:
        handle.truncate(1000)
    before = attempts(mine)
    hpcscale("sweep", file, "--executor", "local", *where)
    assert changed(mine, before) == {str(p.relative_to(mine)) for p in (lost, cut)}
    np.testing.assert_array_equal(np.load(cut / "gradients-00000.npy"), whole)
    assert (lost / "done.json").exists()


def test_a_flipped_bit_is_found_by_its_checksum_named_and_made_good(
    run: Path, file: Path, hpcscale: Run, tmp_path: Path
) -> None:
    mine, where = copy_of(run, tmp_path)
    broken = sorted(mine.glob("influence/pool-checkpoint1/shard-*"))[0]
    path = broken / "gradients-00000.npy"
    content = bytearray(path.read_bytes())
    content[-97] ^= 64  # the exponent of one number
    path.write_bytes(content)
    # The block that reads it is to be made again, for another reason.
    (block,) = mine.glob("scores/tracin-dump-mean/block-checkpoint1-p00000-*")
    (merged,) = mine.glob("scores/tracin-dump-mean/merged-*")
    shutil.rmtree(block)
    shutil.rmtree(merged)
    for name in ("selections", "cells", "evaluations"):
        for folder in mine.glob(f"{name}/dumped-*"):
            shutil.rmtree(folder)
    failed = hpcscale("sweep", file, "--executor", "local", *where, check=1)
    assert "gradients-00000.npy differs from its checksum" in failed.stdout + failed.stderr
    before = attempts(mine)
    hpcscale("sweep", file, "--executor", "local", *where)
    assert str(broken.relative_to(mine)) in changed(mine, before)
    assert not [n for n in changed(mine, before) if "pool-checkpoint0" in n]
    np.testing.assert_array_equal(scores(mine, "tracin-dump-mean"), scores(run, "tracin-dump-mean"))


def test_another_number_of_shards_leaves_the_scores_valid(
    run: Path, file: Path, hpcscale: Run
) -> None:
    done = hpcscale(
        "sweep",
        file,
        "--executor",
        "local",
        "--dry-run",
        "--set",
        "resources.dump.shards=5",
        "--set",
        "influence.keep_gradients=false",
    )
    assert "nothing to start" in done.stdout


@pytest.mark.parametrize(
    "stage",
    [
        "influence/pool-checkpoint0",
        pytest.param("scores/tracin-direct-mean", marks=pytest.mark.slow),
    ],
)
def test_a_dump_killed_in_the_middle_goes_on_where_it_stopped(
    run: Path, file: Path, hpcscale: Run, tmp_path: Path, stage: str
) -> None:
    """kill -9 between two blocks of rows; the same scores bit for bit."""
    mine, where = copy_of(run, tmp_path)
    for folder in mine.glob("influence/pool-*"):
        shutil.rmtree(folder)
    for folder in (
        *mine.glob("scores/*"),
        *mine.glob("selections/*"),
        *mine.glob("cells/*"),
        *mine.glob("evaluations/*"),
    ):
        shutil.rmtree(folder)
    where = (*where, "--set", "influence.batch_tokens=32")  # blocks of few rows

    def half_way() -> tuple[Path, int, int] | None:
        for path in mine.glob(f"{stage}/**/rows-00000.json"):
            facts = json.loads(path.read_text())
            marker = path.parent / "running.json"
            if 0 < facts["rows"] < facts["units"] and marker.exists():
                return path.parent, facts["rows"], json.loads(marker.read_text())["pid"]
        return None

    with subprocess.Popen(
        command("sweep", file, "--executor", "local", *where),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        task, rows, pid = wait_for(half_way)
        os.kill(pid, signal.SIGKILL)
        output = process.communicate(timeout=300)[0]
    assert "killed by signal 9 (SIGKILL)" in output
    facts = json.loads((task / "rows-00000.json").read_text())
    assert rows <= facts["rows"] < facts["units"]
    hpcscale("sweep", file, "--executor", "local", *where)
    for name in ("tracin-dump-mean", "tracin-direct-mean"):
        ours, theirs = scores(mine, name), scores(run, name)
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
    whole = json.loads((task / "done.json").read_text())
    assert "tokens_per_second" not in whole["facts"], "it went on rather than start over"


def test_ranks_and_query_shards_change_rounding_only(
    run: Path, file: Path, hpcscale: Run, tmp_path: Path
) -> None:
    hpcscale(
        "sweep",
        file,
        "--executor",
        "local",
        "--set",
        f"root={tmp_path}",
        "--set",
        "resources.dump={shards: 2, ranks: 2}",
        "--set",
        "influence.query_shards=2",
        "--set",
        "resources.proxy.ranks=2",
        "--set",
        "train.micro_batch=4",
    )
    for name in ("tracin-dump-mean", "tracin-direct-mean"):
        ours, theirs = scores(tmp_path / "influence", name), scores(run, name)
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


def test_captured_scores_rank_as_dumped_ones_where_the_run_hardly_moves(
    file: Path, hpcscale: Run, tmp_path: Path
) -> None:
    """At a tiny learning rate every step has the base model's gradients, dumped or captured."""
    hpcscale(
        "sweep",
        file,
        "--executor",
        "local",
        "--set",
        f"root={tmp_path}",
        "--set",
        "influence.proxy={tokens: 11k, checkpoints: 1, lr: 1e-9, schedule: constant, warmup: 1}",
        "--set",
        "influence.projection={dimension: 2048, rank: none}",
        "--set",
        "selection=[{name: a, method: tracin, way: capture, preconditioner: none, "
        "normalise: none}, {name: b, method: tracin, preconditioner: none, normalise: none}]",
    )
    captured = scores(tmp_path / "influence", "tracin-capture-mean")
    dumped = scores(tmp_path / "influence", "tracin-dump-mean")
    seen = np.isfinite(captured)
    assert 0.8 < seen.mean() < 1
    # Each was captured once, at one of the steps whose rates the checkpoint sums up.
    proxy = next((tmp_path / "influence").glob("influence/proxy-*"))
    (snapshot,) = proxy.glob("snapshots/*/snapshot.json")
    steps = json.loads(snapshot.read_text())["step"]
    ratio = captured[seen] * steps / dumped[seen]
    assert np.median(ratio) == pytest.approx(1, rel=1e-2)
    assert np.corrcoef(captured[seen], dumped[seen])[0, 1] > 0.999


def test_the_stages_by_hand_give_the_sweeps_scores(
    run: Path, hpcscale: Run, tmp_path: Path
) -> None:
    (pool,), (query,) = run.glob("data/pool-*"), run.glob("data/query-*")
    measure = Measure(sequence_length=32, projection=Projection(None, None), dtype="fp32")
    blocks = []
    for snapshot in run.glob("influence/proxy-*/snapshots/step-*"):
        queries = tmp_path / f"{snapshot.name}-q"
        asked = by_hand.HandDump(str(snapshot), query, measure)
        by_hand.dump(asked, queries)
        for shard in (0, 1):
            out = tmp_path / f"{snapshot.name}-{shard}"
            by_hand.dump(replace(asked, data=pool, shard=(shard, 2)), out)
            blocks.append(tmp_path / f"{out.name}-block")
            # Another measure was there first: its rows must not be taken for these.
            by_hand.score(out, queries, blocks[-1], Aggregation("mean"))
            by_hand.score(out, queries, blocks[-1], Aggregation("mean", cosine=False))
    (tokenizer,) = run.glob("data/tokenizer-*")
    hpcscale(
        "influence",
        "merge",
        *blocks,
        "--out",
        "scores.parquet",
        "--json",
        "scores.json",
        "--dataset",
        "dataset",
        "--tokenizer",
        tokenizer,
    )
    ours = pq.read_table(tmp_path / "scores.parquet")["score"].to_numpy()
    theirs = scores(run, "tracin-dump-mean")
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
    listed = json.loads((tmp_path / "scores.json").read_text())
    assert listed[7]["score"] == ours[7]

    import datasets

    dataset = datasets.load_from_disk(str(tmp_path / "dataset"))
    assert dataset[3]["influence"] == ours[3]
    assert dataset[3]["text_hash"] == f"{dataset[3]['id']:016x}"
    assert "ship" in " ".join(dataset["text"])
    missing = hpcscale("influence", "merge", *blocks[:3], "--out", "x.parquet", check=2)
    assert "there is no block of examples" in missing.stderr


@pytest.mark.slow
def test_dump_and_score_from_the_shell(run: Path, hpcscale: Run, tmp_path: Path) -> None:
    (query,) = run.glob("data/query-*")
    snapshot = next(run.glob("influence/proxy-*/snapshots/step-*"))
    asked = ("--sequence-length", 32, "--dimension", 64, "--adam", "--dtype", "bf16")
    done = hpcscale("influence", "dump", snapshot, "--data", query, "--out", "q", *asked)
    assert "documents, eta" in done.stdout
    hpcscale("influence", "score", "q", "--queries", "q", "--aggregate", "max", "--out", "block")
    hpcscale("influence", "merge", "block", "--out", "s.parquet")
    own = pq.read_table(tmp_path / "s.parquet").to_pandas()
    # A document is its own nearest query.
    assert (own["score"] > 0.98 * own["score"].max()).all()


def test_inspect_shows_texts_and_draws(run: Path, hpcscale: Run, tmp_path: Path) -> None:
    (table,) = run.glob("scores/tracin-dump-mean/merged-*/scores.parquet")
    shown = hpcscale("influence", "inspect", table, "--top", 2, "--figure", "h.png").stdout
    best = scores(run, "tracin-dump-mean").max()
    assert f"{best:+.4g}" in shown
    assert "highest influence" in shown
    assert "sea" in shown
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    both = hpcscale("influence", "inspect", run, "--figure", "x.png", check=2)
    assert "holds several tables; give one" in both.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "data.query=null"), "has no `data.query`"),
        (("--set", "influence.proxy.checkpoints=99"), "write 24 or fewer"),
        (("--set", "influence.projection.dimension=0"), "greater than or equal to 1"),
        (
            (
                "--set",
                "selection=[{name: c, method: tracin, way: capture}]",
                "--set",
                "train.zero=3",
                "--set",
                "train.engine=deepspeed",
            ),
            "write train.zero: 0, 1 or 2",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(
    file: Path, hpcscale: Run, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = hpcscale(
        "sweep", file, "--executor", "local", "--set", f"root={tmp_path}", *words, check=None
    )
    assert message in done.stderr + done.stdout
    assert done.returncode in (1, 2)


def test_a_store_that_does_not_fit_is_refused_with_the_dimension_that_would(
    file: Path, hpcscale: Run, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = hpcscale(
            "sweep",
            file,
            "--executor",
            "local",
            "--set",
            f"root={small}",
            "--set",
            "influence.projection={dimension: 65536}",
            check=2,
        )
        assert "has only 972.8 KiB free" in done.stderr
        fitting = int(done.stderr.partition("dimension: ")[2].partition("}")[0])
        again = hpcscale(
            "sweep",
            file,
            "--executor",
            "local",
            "--dry-run",
            "--set",
            f"root={small}",
            "--set",
            f"influence.projection={{dimension: {fitting}}}",
        )
        assert f"({fitting} numbers)" in again.stdout
        assert not list(small.rglob("done.json"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
