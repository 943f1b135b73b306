"""Influence by hand and as the steps of a sweep: one API, equal numbers; wrong requests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hpcscale.atomic import write_done
from hpcscale.cli.influence import command
from hpcscale.errors import CheckpointError, ConfigError, DataError
from hpcscale.influence import api
from hpcscale.influence.aggregate import Kind
from hpcscale.influence.inputs import checkpoint_of
from hpcscale.influence.requests import (
    Aggregation,
    BlockRequest,
    CheckpointChoice,
    DirectRequest,
    DumpRequest,
    Measure,
    MergeRequest,
    QuerySet,
    ScoredCheckpoint,
)
from hpcscale.influence.sketch import Projection
from hpcscale.influence.snapshots import read_snapshots
from hpcscale.influence.spans import Unit
from hpcscale.plan import kinds
from hpcscale.plan.specs import (
    BlockSpec,
    GradientsSpec,
    InfluenceRequest,
    MergeInfluenceSpec,
)
from hpcscale.plan.specs import Measure as PlannedMeasure
from hpcscale.rundir.layout import SCORES, SNAPSHOTS, STORE
from hpcscale.rundir.task_file import Input, TaskFile
from hpcscale.tools import influence as by_hand
from hpcscale.train.distributed import Ranks
from hpcscale.worker.context import Context
from hpcscale.worker.steps import block, gradients, merge_influence
from training import LENGTH, make_store, train_here

CHECKPOINTS, SHARDS = 2, 2
PROJECTION = Projection("auto", 64)
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a pool, queries and a proxy run, all done."""
    folder = tmp_path_factory.mktemp("run")
    for seed, (role, documents) in enumerate({"pool": 40, "query": 15}.items()):
        make_store(folder / role / STORE, seed, documents)
    make_store(folder / STORE)
    train_here(folder / "proxy", snapshots=CHECKPOINTS)
    for name in ("pool", "query", "proxy"):
        write_done(folder / name, KEY, [])
    return folder


def context(run_dir: Path, kind: kinds.Kind, spec: object, name: str, **inputs: list[str]):  # type: ignore[no-untyped-def, type-arg]
    """As the worker hands it to a step."""
    (run_dir / name).mkdir(parents=True)
    entries = {
        label: tuple(Input(id=id, key=KEY) for id in named) for label, named in inputs.items()
    }
    file = TaskFile(
        id=name,
        name=name,
        kind=kind.name,
        stage=kind.stage,
        key=KEY,
        decides={},
        params={},
        inputs=entries,
    )
    return Context(run_dir, file, kind, spec)


def planned(measure: Measure) -> PlannedMeasure:
    return PlannedMeasure(
        sequence_length=measure.sequence_length,
        packing=measure.packing,
        precision=measure.precision,
        unit=measure.unit,
        seed=measure.seed,
        projection={"dimension": 64},  # type: ignore[arg-type]
        dtype=measure.dtype,
    )


def scored_by_steps(run_dir: Path, measure: Measure, asked: InfluenceRequest, root: str) -> Path:
    """The folder of merged scores, as the tasks of a sweep make it."""
    blocks = []
    for checkpoint in range(CHECKPOINTS):
        folders = {}
        for role, count in (("query", 1), ("pool", SHARDS)):
            for shard in range(count):
                name = f"{root}/{role}-{checkpoint}-{shard}"
                spec = GradientsSpec(
                    measure=planned(measure),
                    checkpoint=checkpoint,
                    power=0.5,
                    epsilon=1e-4,
                    shard=(shard, count),
                    batch_tokens=200,
                )
                step = context(run_dir, kinds.GRADIENTS, spec, name, proxy=["proxy"], store=[role])
                write_done(run_dir / name, KEY, gradients.run(step).outputs)
                folders[role, shard] = name
        for shard in range(SHARDS):
            name = f"{root}/block-{checkpoint}-{shard}"
            block_spec = BlockSpec(
                measure=planned(measure),
                request=asked,
                epsilon=1e-4,
                checkpoint=checkpoint,
                shard=(shard, SHARDS),
                batch_tokens=200,
            )
            inputs = {"gradients": [folders["pool", shard]], "pool": ["pool"], "query": ["query"]}
            inputs["queries"] = [folders["query", 0]]
            step = context(run_dir, kinds.BLOCK, block_spec, name, **inputs)
            write_done(run_dir / name, KEY, block.run(step).outputs)
            blocks.append(name)
    merge_spec = MergeInfluenceSpec(
        measure=planned(measure),
        request=asked,
        epsilon=1e-4,
        checkpoints=CHECKPOINTS,
        pool_shards=SHARDS,
        query_shards=1,
    )
    inputs = {"shards": blocks, "pool": ["pool"], "query": ["query"], "proxy": ["proxy"]}
    merge_influence.run(
        context(run_dir, kinds.MERGE_INFLUENCE, merge_spec, f"{root}/merged", **inputs)
    )
    return run_dir / root / "merged"


def scored_by_hand(run_dir: Path, measure: Measure, kind: Kind, out: Path) -> Path:
    """The same with the functions behind ``hpcscale influence``, and blocks in another order."""
    blocks = []
    for number, snapshot in enumerate(read_snapshots(run_dir / "proxy" / SNAPSHOTS)):
        asked = by_hand.HandDump(
            str(snapshot.folder),
            run_dir / "query",
            measure,
            adam=True,
            epsilon=1e-4,
            batch_tokens=200,
        )
        by_hand.dump(asked, out / f"query-{number}-0")
        for shard in range(SHARDS):
            pool = out / f"pool-{number}-{shard}"
            by_hand.dump(replace(asked, data=run_dir / "pool", shard=(shard, SHARDS)), pool)
            blocks.append(out / f"block-{number}-{shard}")
            by_hand.score(pool, out / f"query-{number}-0", blocks[-1], Aggregation(kind))
    by_hand.merge(blocks[::-1], None, out / "merged" / SCORES)
    return out / "merged"


@pytest.mark.parametrize(("unit", "kind"), [("document", "domain"), ("sequence", "mean")])
def test_by_hand_and_steps_give_the_same_bits(
    run_dir: Path, tmp_path: Path, unit: Unit, kind: Kind
) -> None:
    measure, root = Measure(unit, LENGTH, "isolate", projection=PROJECTION), f"{unit}-{kind}"
    asked = InfluenceRequest(
        way="dump", preconditioner="adam", normalise="cosine", aggregate=kind, query_weights={}
    )
    steps = scored_by_steps(run_dir, measure, asked, root)
    hand = scored_by_hand(run_dir, measure, kind, tmp_path)
    tables = [pq.read_table(folder / SCORES) for folder in (steps, hand)]
    assert tables[0].equals(tables[1])
    arrays = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.npy"))
    assert len(arrays) == 3 * CHECKPOINTS * (1 + SHARDS) + 2 * CHECKPOINTS * SHARDS
    for name in arrays:
        assert (run_dir / root / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_dump_by_hand_resumes_and_another_one_starts_over(run_dir: Path, tmp_path: Path) -> None:
    snapshot = read_snapshots(run_dir / "proxy" / SNAPSHOTS)[0].folder
    measure = Measure(sequence_length=LENGTH, projection=PROJECTION)
    asked = by_hand.HandDump(str(snapshot), run_dir / "pool", measure)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)

    made = by_hand.dump(asked, tmp_path / "p", progress)
    assert json.loads((tmp_path / "p" / by_hand.MADE).read_text()) == made
    assert made["units"] == [0, 40]
    again = by_hand.dump(asked, tmp_path / "p", progress)
    assert (again, len(seen)) == (made, 1)
    by_hand.dump(replace(asked, eta=0.5), tmp_path / "p", progress)
    assert len(seen) == 2


def test_direct_scores_are_those_of_whole_gradients(run_dir: Path, tmp_path: Path) -> None:
    whole = Measure(sequence_length=LENGTH, projection=Projection(None, None), dtype="fp32")
    checkpoint = checkpoint_of(run_dir / "proxy" / SNAPSHOTS, 1, 0.5, 1e-4)
    folders = {}
    for role in ("pool", "query"):
        folders[role] = tmp_path / role
        request = DumpRequest(run_dir / role / STORE, checkpoint, whole)
        dumped = api.dump(request, folders[role], ranks=Ranks())
        assert dumped.files[0] == "gradients-00000.npy"
    queries = QuerySet(run_dir / "query" / STORE, whole, folders["query"])
    api.score(BlockRequest(Aggregation(), queries, folders["pool"]), tmp_path / "dumped")
    pool = run_dir / "pool" / STORE
    direct = DirectRequest(Aggregation(), queries, pool, checkpoint, whole)
    api.score_direct(direct, tmp_path / "direct", ranks=Ranks())
    scores = []
    for name in ("dumped", "direct"):
        one = [ScoredCheckpoint("step-1", 0.25)]
        request = MergeRequest([tmp_path / name], one, 1, "mean", pool, whole)
        scores.append(api.merge(request, tmp_path / name / SCORES))
    assert scores[0].shape == (40,)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-6)


# --- what does not fit together


def test_adams_metric_needs_moments(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="which gpt2 does not have; give a snapshot"):
        CheckpointChoice("gpt2", None, 0.5)
    model = read_snapshots(run_dir / "proxy" / SNAPSHOTS)[0].model
    asked = by_hand.HandDump(str(model), run_dir / "pool", Measure(), adam=True)
    with pytest.raises(CheckpointError, match="or leave out --adam"):
        by_hand.dump(asked, tmp_path / "x")
    with pytest.raises(CheckpointError, match="holds 2 snapshots, and number 3 is needed"):
        checkpoint_of(run_dir / "proxy" / SNAPSHOTS, 2)


def test_aggregates_and_queries_belong_together(tmp_path: Path) -> None:
    queries = QuerySet(tmp_path, Measure(), tmp_path)
    alone = Aggregation("self", cosine=False)
    with pytest.raises(ConfigError, match="aggregate `mean` scores against queries, and none"):
        BlockRequest(Aggregation(), None, tmp_path)
    with pytest.raises(ConfigError, match="aggregate `domain` scores against queries, and none"):
        DirectRequest(Aggregation("domain"), None, tmp_path, CheckpointChoice("gpt2"), Measure())
    with pytest.raises(ConfigError, match="against themselves; leave out the query set"):
        BlockRequest(alone, queries, tmp_path)
    with pytest.raises(ConfigError, match="none are given; dump the query set"):
        BlockRequest(Aggregation(), replace(queries, gradients=None), tmp_path)
    with pytest.raises(ConfigError, match="cosine with itself is 1"):
        Aggregation("self")
    with pytest.raises(ConfigError, match="no queries to weigh"):
        Aggregation("self", cosine=False, query_weights={"sea": 2.0})


def test_gradients_of_other_projections_and_checkpoints_are_refused(
    run_dir: Path, tmp_path: Path
) -> None:
    snapshots = [found.folder for found in read_snapshots(run_dir / "proxy" / SNAPSHOTS)]
    measure = Measure(sequence_length=LENGTH, projection=PROJECTION)
    asked = by_hand.HandDump(str(snapshots[0]), run_dir / "query", measure)
    by_hand.dump(asked, tmp_path / "q")
    other = replace(measure, projection=replace(PROJECTION, seed=1))
    by_hand.dump(replace(asked, measure=other), tmp_path / "other")
    by_hand.dump(replace(asked, model=str(snapshots[1])), tmp_path / "later")
    with pytest.raises(DataError, match="of different projections do not fit together"):
        by_hand.score(tmp_path / "q", tmp_path / "other", tmp_path / "b", Aggregation())
    with pytest.raises(DataError, match="their weights are"):
        by_hand.score(tmp_path / "q", tmp_path / "later", tmp_path / "b", Aggregation())
    with pytest.raises(DataError, match="was not finished by `hpcscale influence score`"):
        by_hand.merge([tmp_path / "b"], None, tmp_path / SCORES)


@pytest.mark.parametrize(("blocks", "shards"), [(0, 1), (3, 1), (4, 3)])
def test_blocks_that_are_no_grid_are_refused(tmp_path: Path, blocks: int, shards: int) -> None:
    two = [ScoredCheckpoint("step-1", 1.0), ScoredCheckpoint("step-2", 1.0)]
    with pytest.raises(DataError, match=f"{blocks} score blocks are no grid of 2 checkpoints"):
        MergeRequest([tmp_path] * blocks, two, shards, "mean", tmp_path, Measure())


def test_the_grid_is_in_the_planned_order() -> None:
    two = [ScoredCheckpoint("step-1", 1.0), ScoredCheckpoint("step-2", 1.0)]
    blocks = [Path(f"{c}-{p}-{q}") for c in range(2) for p in range(3) for q in range(2)]
    grid = MergeRequest(blocks, two, 2, "max", Path(), Measure()).grid()
    assert [(len(pools), len(pools[0])) for pools in grid] == [(3, 2)] * 2
    assert grid[1][2][0] == Path("1-2-0")


def test_defaults_of_the_command_line_are_those_of_the_requests() -> None:
    options = {option.name: option.default for option in command.commands["dump"].params}
    measure, asked = Measure(), by_hand.HandDump("", Path())
    for name in ("unit", "sequence_length", "packing", "precision", "dtype"):
        assert options[name] == getattr(measure, name)
    for name in ("epsilon", "batch_tokens"):
        assert options[name] == getattr(asked, name)
    projection = measure.projection
    assert (options["rank"], options["dimension"]) == (projection.rank, str(projection.dimension))


def test_measures_are_read_from_json() -> None:
    values = {
        "unit": "sequence",
        "seed": 3,
        "packing": "isolate",
        "projection": {"rank": None, "dimension": 8, "seed": 1},
        "checkpoint": 2,
    }
    found = Measure.of(values)
    assert found == Measure("sequence", 1024, "isolate", "fp32", 3, Projection(None, 8, 1), "fp16")
    assert Measure.of({}) == Measure()


def test_self_influence_without_queries_from_the_shell(run_dir: Path, tmp_path: Path) -> None:
    runner, snapshot = CliRunner(), read_snapshots(run_dir / "proxy" / SNAPSHOTS)[0].folder
    pool, scores = tmp_path / "p", tmp_path / SCORES
    calls = [
        ["dump", snapshot, "--data", run_dir / "pool", "--out", pool, "--sequence-length", LENGTH],
        ["score", pool, "--aggregate", "self", "--out", tmp_path / "b"],
        ["merge", tmp_path / "b", "--out", scores],
        ["inspect", scores],
    ]
    for words in calls:
        done = runner.invoke(command, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "40 of 40 documents have a score" in done.output
    refused = runner.invoke(command, ["score", str(pool), "--out", str(tmp_path / "c")])
    assert isinstance(refused.exception, ConfigError)
    assert "give a query set (--queries)" in str(refused.exception)
