"""Dump, score and merge, and direct scoring, against float64 autograd; and what must not matter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from hpcscale.atomic import write_parquet
from hpcscale.data.shards import shard_range
from hpcscale.data.store import TokenStore
from hpcscale.errors import ConfigError, DataError
from hpcscale.influence.aggregate import group_queries
from hpcscale.influence.blocks import read_block, score_block
from hpcscale.influence.direct import direct_block, query_directions
from hpcscale.influence.dump import DumpOptions, dump_examples
from hpcscale.influence.examples import Examples, all_examples, row_domains
from hpcscale.influence.gradient_shards import GradientShard
from hpcscale.influence.merge import Merged, merge_blocks
from hpcscale.influence.score_table import documents_of_rows, read_table, score_table
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.train.distributed import Ranks
from models import exact_gradients, gpt2, relative
from training import LENGTH, make_store

CPU = torch.device("cpu")
ETAS = (0.3, 0.7, 0.05)
WHOLE = Projection(None, None)


class Alone(Ranks):
    """One of several ranks, run by itself."""

    def barrier(self) -> None:
        pass


@dataclass
class World:
    """Three checkpoints, a pool and queries, and their gradients in float64."""

    pool: TokenStore
    query: TokenStore
    models: list[torch.nn.Module]
    scales: list[dict[str, torch.Tensor]]
    gradients: list[tuple[np.ndarray, np.ndarray]]  # type: ignore[type-arg]
    preconditioned: list[tuple[np.ndarray, np.ndarray]]  # type: ignore[type-arg]

    def examples(self, role: str) -> Examples:
        store = self.pool if role == "pool" else self.query
        return all_examples(store, "document", LENGTH, "concat")

    def expected(self, kind: str, adam: bool, cosine: bool) -> np.ndarray:  # type: ignore[type-arg]
        """By the definition, every pair by itself."""
        domains = np.asarray(self.query.domains)
        total = np.zeros((self.pool.n_documents, self.query.n_documents))
        own = np.zeros(self.pool.n_documents)
        for eta, (g, q) in zip(ETAS, self.preconditioned if adam else self.gradients, strict=True):
            own += eta * (g**2).sum(1)
            if cosine:
                g = g / np.linalg.norm(g, axis=1, keepdims=True)
                q = q / np.linalg.norm(q, axis=1, keepdims=True)
            total += eta * g @ q.T
        if kind == "self":
            return own
        if kind == "max":
            return total.max(1)
        if kind == "domain":
            return np.stack([total[:, domains == d].mean(1) for d in (0, 1)]).max(0)
        return total.mean(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("ways")
    make_store(folder / "pool", seed=0, documents=30)
    make_store(folder / "query", seed=1, documents=11)
    stores = [TokenStore.open(folder / name) for name in ("pool", "query")]
    models = [gpt2(seed) for seed in range(3)]
    scales = []
    for seed, model in enumerate(models):
        generator = torch.Generator().manual_seed(seed)
        scales.append(
            {
                name: (torch.rand(p.shape, generator=generator) + 0.1).pow(-0.25)
                for name, p in model.named_parameters()
            }
        )
    plain = [tuple(exact_gradients(m, s) for s in stores) for m in models]
    scaled = [
        tuple(exact_gradients(m, s, scale) for s in stores)
        for m, scale in zip(models, scales, strict=True)
    ]
    return World(stores[0], stores[1], models, scales, plain, scaled)  # type: ignore[arg-type]


def dump(
    world: World,
    checkpoint: int,
    role: str,
    out: Path,
    adam: bool = False,
    projection: Projection = WHOLE,
    bounds: tuple[int, int] | None = None,
    world_size: int = 1,
    dtype: str = "fp32",
    batch_tokens: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> GradientShard:
    model, examples = world.models[checkpoint], world.examples(role)
    for rank in range(world_size):
        dump_examples(
            model,
            examples,
            bounds or (0, examples.count),
            Sketch(model, projection, CPU),
            out,
            DumpOptions(dtype, key="key", batch_tokens=batch_tokens),
            progress=progress,
            ranks=Alone(rank, rank, world_size),
            scale=world.scales[checkpoint] if adam else None,
        )
    return GradientShard(out)


def by_dump(
    world: World,
    out: Path,
    kind: str,
    adam: bool = False,
    cosine: bool = False,
    shards: int = 1,
    query_shards: int = 1,
    **how: object,
) -> Merged:
    domains, names = world.query.domains, world.query.domain_names
    groups = group_queries(kind, domains, names)  # type: ignore[arg-type]
    blocks: list[list[list[Path]]] = []
    for c in range(len(ETAS)):
        queries = [
            (
                dump(
                    world,
                    c,
                    "query",
                    out / f"q{c}-{k}",
                    adam,
                    bounds=shard_range(k, query_shards, world.query.n_documents),
                    **how,
                ),  # type: ignore[arg-type]
                shard_range(k, query_shards, world.query.n_documents),
            )
            for k in range(query_shards)
        ]
        blocks.append([])
        for s in range(shards):
            bounds = shard_range(s, shards, world.pool.n_documents)
            pool = dump(world, c, "pool", out / f"p{c}-{s}", adam, bounds=bounds, **how)  # type: ignore[arg-type]
            row = []
            for k, (query, part) in enumerate(queries):
                folder = out / f"b{c}-{s}-{k}"
                none = kind == "self"
                score_block(
                    pool,
                    None if none else query,
                    groups if none else groups.part(*part),
                    cosine,
                    folder,
                )
                row.append(folder)
            blocks[-1].append(row)
    return merge_blocks(blocks, ETAS, kind, world.pool.n_documents)  # type: ignore[arg-type]


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("kind", ["mean", "domain", "max"])
def test_unprojected_dump_and_score_are_exact(
    world: World, tmp_path: Path, kind: str, adam: bool, cosine: bool
) -> None:
    merged = by_dump(world, tmp_path, kind, adam, cosine, shards=2, query_shards=2)
    assert relative(merged.total, world.expected(kind, adam, cosine)) < 1e-5
    np.testing.assert_allclose(merged.by_checkpoint.sum(1), merged.total, rtol=1e-12)


@pytest.mark.parametrize("adam", [False, True])
def test_self_influence_is_exact(world: World, tmp_path: Path, adam: bool) -> None:
    merged = by_dump(world, tmp_path, "self", adam)
    assert relative(merged.total, world.expected("self", adam, False)) < 1e-5


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("kind", ["mean", "domain", "self"])
def test_direct_scores_are_exact(
    world: World, tmp_path: Path, kind: str, adam: bool, cosine: bool
) -> None:
    if kind == "self" and cosine:
        return
    groups = group_queries(kind, world.query.domains, world.query.domain_names)  # type: ignore[arg-type]
    pool, query, options = (
        world.examples("pool"),
        world.examples("query"),
        DumpOptions(batch_tokens=200),
    )
    blocks = []
    for c, model in enumerate(world.models):
        scale = world.scales[c] if adam else None
        along = query_directions(model, query, groups, cosine, scale, options, CPU)
        blocks.append([])
        for shard in range(2):
            out = tmp_path / f"{c}-{shard}"
            for rank in range(2):
                direct_block(
                    model,
                    pool,
                    shard_range(shard, 2, pool.count),
                    along,
                    out,
                    options,
                    ranks=Alone(rank, rank, 2),
                )
            blocks[-1].append([out])
    merged = merge_blocks(blocks, ETAS, kind, pool.count)  # type: ignore[arg-type]
    assert relative(merged.total, world.expected(kind, adam, cosine)) < 1e-5


def test_every_query_by_itself_is_refused_without_a_store(world: World) -> None:
    groups = group_queries("max", world.query.domains, world.query.domain_names)
    with pytest.raises(ConfigError, match="write `way: dump`"):
        query_directions(
            world.models[0], world.examples("query"), groups, False, None, DumpOptions(), CPU
        )


SMALL = Projection(rank=8, dimension=256)


def test_ranks_shards_and_batches_do_not_matter(world: World, tmp_path: Path) -> None:
    one = by_dump(world, tmp_path / "one", "mean", cosine=True, projection=SMALL)
    for number, how in enumerate(
        [
            {"world_size": 3},
            {"shards": 4, "query_shards": 3},
            {"batch_tokens": 20},
            {"world_size": 2, "shards": 3, "batch_tokens": 5000},
        ]
    ):
        other = by_dump(world, tmp_path / str(number), "mean", cosine=True, projection=SMALL, **how)  # type: ignore[arg-type]
        assert relative(other.total, one.total) < 1e-5


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_more_shards_than_examples_leave_some_empty(
    world: World, tmp_path: Path, kind: str
) -> None:
    merged = by_dump(world, tmp_path, kind, shards=32, query_shards=13)
    assert relative(merged.total, world.expected(kind, False, False)) < 1e-5


def test_packing_neighbours_do_not_matter(world: World, tmp_path: Path) -> None:
    """A document's row is the same alone, among others, and in another order."""
    among = dump(world, 0, "pool", tmp_path / "all", projection=SMALL, dtype="fp16")
    rows = torch.cat([rows for _, rows in among.blocks(7)])
    for document in (0, 13, 29):
        alone = dump(
            world,
            0,
            "pool",
            tmp_path / str(document),
            projection=SMALL,
            dtype="fp16",
            bounds=(document, document + 1),
        )
        assert relative(next(alone.blocks(1))[1].numpy(), rows[[document]].numpy()) < 1e-3
        assert alone.norms[0] == pytest.approx(among.norms[document], rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("bf16", 8e-3), ("fp32", 1e-6)])
def test_stored_numbers_keep_their_digits(
    world: World, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    exact = dump(world, 1, "pool", tmp_path / "exact", projection=SMALL)
    other = dump(world, 1, "pool", tmp_path / dtype, projection=SMALL, dtype=dtype)
    rows = [torch.cat([rows for _, rows in shard.blocks(9)]) for shard in (exact, other)]
    assert relative(rows[1].numpy(), rows[0].numpy()) < tolerance
    np.testing.assert_array_equal(exact.norms, other.norms)
    assert np.load(tmp_path / dtype / "gradients-00000.npy").dtype.itemsize == (
        4 if dtype == "fp32" else 2
    )


class Killed(BaseException):
    pass


def killed_at(block: int) -> Callable[[int, int], None]:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == block:
            raise Killed

    return progress


def test_a_killed_dump_goes_on_bit_for_bit(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcscale.influence.dump._BLOCK", 1)
    how = {"projection": SMALL, "batch_tokens": 100, "dtype": "fp16"}
    whole = dump(world, 0, "pool", tmp_path / "whole", **how)  # type: ignore[arg-type]
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        dump(world, 0, "pool", out, progress=killed_at(3), **how)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"rows-00000.json has \d+ of 30 rows"):
        GradientShard(out)
    facts = json.loads((out / "rows-00000.json").read_text())
    # What a torn write left behind the mark is written again.
    gradients = np.load(out / "gradients-00000.npy", mmap_mode="r+")
    gradients[facts["rows"] :] = 7
    reported: list[int] = []
    again = dump(world, 0, "pool", out, progress=lambda d, t: reported.append(d), **how)  # type: ignore[arg-type]
    assert len(reported) >= 2
    assert min(reported) > world.pool.lengths[: facts["rows"]].sum()
    for name in ("gradients", "norms", "units"):
        ours, theirs = (np.load(p.folder / f"{name}-00000.npy") for p in (again, whole))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose", "units"])
def test_damaged_rows_are_not_gone_on_with(world: World, tmp_path: Path, damage: str) -> None:
    """A whole shard whose marker is gone is checked before it counts; what is broken is redone."""
    whole = dump(world, 0, "pool", tmp_path / "x", projection=SMALL)
    expected = torch.cat([rows for _, rows in whole.blocks(50)])
    path = tmp_path / "x" / ("units-00000.npy" if damage == "units" else "gradients-00000.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "truncate":
        path.write_bytes(content[:200])
    elif damage == "lose":
        path.unlink()
    else:
        path.write_bytes(content)
    again = dump(world, 0, "pool", tmp_path / "x", projection=SMALL)
    assert torch.equal(torch.cat([rows for _, rows in again.blocks(50)]), expected)
    np.testing.assert_array_equal(again.examples, np.arange(30))


def test_rows_of_another_key_or_rank_count_are_not_gone_on_with(
    world: World, tmp_path: Path
) -> None:
    three = dump(world, 0, "pool", tmp_path / "x", projection=SMALL, world_size=3)
    assert len(three) == 30
    one = dump(world, 0, "pool", tmp_path / "x", projection=SMALL, world_size=1)
    assert len(one) == 30, "files of the other ranks are gone"
    assert sorted(p.name for p in one.folder.glob("units-*")) == ["units-00000.npy"]


def test_a_missing_or_damaged_block_is_an_error_and_never_a_zero(
    world: World, tmp_path: Path
) -> None:
    by_dump(world, tmp_path, "mean", shards=2, projection=SMALL)
    blocks = [[[tmp_path / f"b{c}-{s}-0"] for s in range(2)] for c in range(3)]
    with pytest.raises(DataError, match="cover 15 of 30 examples"):
        merge_blocks([of[:1] for of in blocks], ETAS, "mean", 30)
    with pytest.raises(DataError, match="holds 15 examples that are not the 15 from 0 on"):
        merge_blocks([of[::-1] for of in blocks], ETAS, "mean", 30)
    broken = np.load(blocks[1][1][0] / "scores-00000.npy", mmap_mode="r+")
    broken[3] = np.nan
    broken.flush()
    with pytest.raises(DataError, match="b1-1-0 holds a score that is no number"):
        merge_blocks(blocks, ETAS, "mean", 30)
    (blocks[2][0][0] / "scores-00000.npy").unlink()
    with pytest.raises(DataError, match=r"scores-00000.npy is missing"):
        merge_blocks(blocks, ETAS, "mean", 30)


def test_different_projections_do_not_meet(world: World, tmp_path: Path) -> None:
    pool = dump(world, 0, "pool", tmp_path / "p", projection=SMALL)
    query = dump(world, 0, "query", tmp_path / "q", projection=Projection(8, 256, seed=1))
    groups = group_queries("mean", world.query.domains, world.query.domain_names)
    with pytest.raises(DataError, match="different projections"):
        score_block(pool, query, groups, False, tmp_path / "b")


def test_a_killed_score_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcscale.influence.blocks._HELD", 256 * 4)
    monkeypatch.setattr("hpcscale.influence.blocks._COMMIT", 4)
    pool = dump(world, 0, "pool", tmp_path / "p", projection=SMALL)
    query = dump(world, 0, "query", tmp_path / "q", projection=SMALL)
    groups = group_queries("max", world.query.domains, world.query.domain_names)
    score_block(pool, query, groups, True, tmp_path / "whole")
    with pytest.raises(Killed):
        score_block(pool, query, groups, True, tmp_path / "b", progress=killed_at(3))
    score_block(pool, query, groups, True, tmp_path / "b")
    whole, again = (read_block(tmp_path / n).whole("scores") for n in ("whole", "b"))
    np.testing.assert_array_equal(again, whole)


def test_a_killed_merge_leaves_no_table_and_is_done_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = by_dump(world, tmp_path, "mean", projection=SMALL)
    table = score_table(world.pool, merged, ["a", "b", "c"])

    def half(table: object, handle: IO[bytes]) -> None:
        handle.write(b"PAR1")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.write_table", half)
        with pytest.raises(Killed):
            write_parquet(tmp_path / "scores.parquet", table)
    assert not list(tmp_path.glob("*scores.parquet*"))
    write_parquet(tmp_path / "scores.parquet", table)
    assert read_table(tmp_path / "scores.parquet").equals(table)


def test_query_weights_weigh_domains(world: World) -> None:
    domains = np.asarray(world.query.domains)
    names = world.query.domain_names
    groups = group_queries("mean", domains, names, {names[0]: 3.0})
    assert groups.weights is not None
    assert groups.weights.sum() == pytest.approx(1)
    ratio = groups.weights[0][domains == 0][0] / groups.weights[0][domains == 1][0]
    assert ratio == pytest.approx(3)
    with pytest.raises(ConfigError, match="`sea`, which is no domain of the query set; it has:"):
        group_queries("mean", domains, names, {"sea": 1.0})


@pytest.mark.parametrize("packing", ["concat", "isolate"])
def test_sequences_are_examples_and_go_back_to_documents(
    world: World, tmp_path: Path, packing: str
) -> None:
    model = world.models[0]
    examples = all_examples(world.pool, "sequence", LENGTH, packing, seed=4)  # type: ignore[arg-type]
    out = tmp_path / "rows"
    dump_examples(
        model,
        examples,
        (0, examples.count),
        Sketch(model, WHOLE, CPU),
        out,
        DumpOptions("fp32"),
        ranks=Ranks(),
    )
    shard = GradientShard(out)
    score_block(shard, None, group_queries("self", np.zeros(0, int), ()), False, tmp_path / "b")
    merged = merge_blocks([[[tmp_path / "b"]]], [1.0], "self", examples.count)
    scores = documents_of_rows(merged, examples, world.pool.n_documents)
    assert scores.total.shape == (30,)
    weight = np.asarray(world.pool.lengths) / world.pool.n_tokens
    rows = np.asarray(examples.tokens) / world.pool.n_tokens
    assert (scores.total * weight).sum() == pytest.approx((merged.total * rows).sum())
    domains = row_domains(examples, world.pool.domains)  # type: ignore[arg-type]
    assert domains.shape == (examples.count,)


def test_the_table_says_what_is_what(world: World, tmp_path: Path) -> None:
    merged = by_dump(world, tmp_path, "max", projection=SMALL)
    table = score_table(world.pool, merged, ["step-1", "step-2", "step-3"], world.query)
    write_parquet(tmp_path / "scores.parquet", table)
    again = read_table(tmp_path / "scores.parquet")
    assert again.column_names == [
        "id",
        "text_hash",
        "domain",
        "tokens",
        "score",
        "step-1",
        "step-2",
        "step-3",
        "query",
    ]
    row = again.slice(3, 1).to_pylist()[0]
    assert row["text_hash"] == f"{row['id']:016x}"
    assert row["step-1"] + row["step-2"] + row["step-3"] == pytest.approx(row["score"])
    assert row["query"] in world.query.ids
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match="is no table of scores"):
        read_table(tmp_path / "x.parquet")
