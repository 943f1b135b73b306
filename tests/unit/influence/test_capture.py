"""Rows captured from the training backward against autograd in float64, document by document."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpcscale.errors import CheckpointError, ConfigError, DataError, Preempted
from hpcscale.influence.capture import Capture
from hpcscale.influence.capture_limits import check_capture
from hpcscale.influence.capture_store import CapturedRows, read_capture
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.gradient_shards import unpack
from hpcscale.influence.sketch import Projection, Sketch
from hpcscale.influence.spans import TokenGroups, spans_of
from hpcscale.train.checkpoint import Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.watch import Silent
from training import LENGTH, make_store, prepare, settings_of, stream_ids, train_here

#: Two full steps of eight rows and a last step of five, its last row short; documents that lie in
#: several rows and steps.
SETTINGS: dict[str, Any] = {"tokens": 330, "micro_batch": 4, "capture": "fp32", "lr": 1e-3}
STEPS, ROWS = 3, 21


class Weights(Silent):
    """Keeps the weights that each step began with."""

    def __init__(self) -> None:
        self.before: list[dict[str, torch.Tensor]] = []

    def started(self, engine: Engine, position: Position, plan: Any) -> None:
        self.note(engine)

    def after_step(self, position: Position, lr: float, engine: Engine) -> None:
        self.note(engine)

    def note(self, engine: Engine) -> None:
        named = engine.module.named_parameters()
        self.before.append({name: p.detach().clone() for name, p in named})


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are faster without company."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture")
    make_store(folder / "store")
    return folder


def captured(folder: Path, name: str, **settings: Any) -> tuple[CapturedRows, list[dict[str, Any]]]:
    lines = train_here(folder / name, **{**SETTINGS, **settings})
    return read_capture(folder / name / "capture"), lines


def vectors(rows: CapturedRows) -> np.ndarray:  # type: ignore[type-arg]
    """The rows with their norms, float64 [n, dimension]."""
    unit = unpack(rows.take(np.arange(len(rows))), rows.dtype).double().numpy()
    return unit * rows.norms[:, None].astype(np.float64)


def relative(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def exact_rows(folder: Path, packing: str, unit: str, **more: Any) -> dict[Any, Any]:
    """Gradients in float64 of what each row stands for, by (step, packed row, document ordinal).

    Under ``isolate`` each piece is run by itself; of a packed row under ``concat`` all of it is.
    """
    settings = settings_of(**{**SETTINGS, "packing": packing, **more})
    model, stream, config = prepare(folder / "exact", settings)
    weights = Weights()
    train_here(
        folder / f"exact-{packing}-{unit}",
        [weights],
        packing=packing,
        **{**SETTINGS, "capture": "", **more},
    )
    lengths = np.bincount(
        stream.rows(0, stream.n_rows).segments[stream.rows(0, stream.n_rows).segments >= 0]
    )
    exact = model.double()
    found = {}
    for row in range(stream.n_rows):
        step = row // (config.global_batch // LENGTH)
        exact.load_state_dict(weights.before[step], strict=False)
        batch = stream.rows(row, row + 1)
        owners = batch.segments[0]
        for owner in np.unique(owners[owners >= 0]):
            mask = owners == owner if packing == "isolate" else owners >= 0
            exact.zero_grad()
            logits = exact(input_ids=torch.tensor(batch.inputs[0][mask][None])).logits[0]
            targets = torch.tensor(batch.targets[0][mask])
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            tokens = lengths[owner] if unit == "document" else int(batch.tokens[0])
            (loss / tokens).backward()
            gradient = torch.cat([p.grad.flatten() for p in exact.parameters()]).numpy().copy()
            found[(step + 1, row, int(owner))] = gradient
    return found


def test_isolated_rows_are_the_gradients_of_the_documents_own_loss(folder: Path) -> None:
    rows, lines = captured(folder, "isolate", packing="isolate")
    exact = exact_rows(folder, "isolate", "document")
    ids = stream_ids(folder / "isolate")
    expected = {(step, row, int(ids[owner])): g for (step, row, owner), g in exact.items()}
    keys = list(zip(rows.steps.tolist(), rows.rows.tolist(), rows.ids.tolist(), strict=True))
    assert sorted(keys) == sorted(expected)
    found = vectors(rows)
    for key, vector in zip(keys, found, strict=True):
        assert relative(vector, expected[key]) < 1e-5, key
    # A document of several pieces in one step: its rows add up to its mean token loss's gradient.
    sums = 0
    for step, document in {(k[0], k[2]) for k in keys}:
        mine = [i for i, k in enumerate(keys) if (k[0], k[2]) == (step, document)]
        sums += len(mine) > 1
        whole = sum(g for k, g in expected.items() if (k[0], k[2]) == (step, document))
        assert relative(found[mine].sum(0), whole) < 1e-5
    assert sums > 3
    rates = [line["lr"] for line in lines]
    np.testing.assert_allclose(rows.rates, np.take(rates, rows.steps - 1), rtol=1e-6)
    intervals = CheckpointSchedule.of(prepare(folder / "x", settings_of(**SETTINGS))[2], 330, 2)
    assert rows.intervals.tolist() == [intervals.of_step(int(s)) for s in rows.steps]
    assert set(rows.intervals) == {0, 1}


@pytest.mark.parametrize("packing", ["concat", "isolate"])
def test_packed_rows_are_units_too(folder: Path, packing: str) -> None:
    rows, _ = captured(folder, f"sequence-{packing}", packing=packing, unit="sequence")
    exact = exact_rows(folder, packing, "sequence")
    assert rows.rows.tolist() == rows.ids.tolist()
    assert sorted(rows.rows.tolist()) == list(range(ROWS))
    for row, vector in zip(rows.rows.tolist(), vectors(rows), strict=True):
        parts = [g for (_, r, _), g in exact.items() if r == row]
        expected = sum(parts) if packing == "isolate" else parts[0]
        assert relative(vector, expected) < 1e-5


def test_pieces_of_concatenated_rows_add_up_to_the_packed_row(folder: Path) -> None:
    """Where a document's tokens are context of others, the sum alone is defined by the loss."""
    pieces, _ = captured(folder, "concat", packing="concat")
    sequences, _ = captured(folder, "concat-rows", packing="concat", unit="sequence")
    _, stream, _ = prepare(folder / "x", settings_of(**SETTINGS))
    lengths = dict(
        zip(stream_ids(folder / "x").tolist(), stream.document_tokens.tolist(), strict=True)
    )
    parts, whole = vectors(pieces), vectors(sequences)
    weight = np.array([lengths[i] for i in pieces.ids.tolist()])
    for row in range(ROWS):
        mine = pieces.rows == row
        tokens = int(stream.rows(row, row + 1).tokens[0])
        added = (parts[mine] * weight[mine, None]).sum(0) / tokens
        assert relative(added, whole[sequences.rows == row][0]) < 1e-5


@pytest.mark.parametrize(
    "more",
    [
        {"micro_batch": 1},
        {"micro_batch": 8},
        {"engine": "deepspeed", "zero": 0},
        {"engine": "deepspeed", "zero": 2, "micro_batch": 2},
    ],
)
def test_micro_batch_and_engine_change_rounding_only(folder: Path, more: dict[str, Any]) -> None:
    rows, _ = captured(folder, "isolate-again", packing="isolate")
    others, _ = captured(folder, f"isolate-{len(str(more))}-{more}", packing="isolate", **more)
    for name in ("ids", "rows", "steps", "rates", "intervals"):
        np.testing.assert_array_equal(getattr(others, name), getattr(rows, name))
    assert relative(vectors(others), vectors(rows)) < 1e-4
    first = rows.steps == 1  # before weights can have come apart
    assert relative(vectors(others)[first], vectors(rows)[first]) < 1e-5


def test_rows_are_sketches_of_the_gradients_in_the_type_asked_for(folder: Path) -> None:
    """Rank and dimension, and rows of norm 1 in 16 bits."""
    whole, _ = captured(folder, "whole", packing="isolate")
    model, _, _ = prepare(folder / "x", settings_of(**SETTINGS))
    sketch = Sketch(model, Projection(8, 128), torch.device("cpu"))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    expected = []
    for vector in vectors(whole):
        parts = torch.from_numpy(vector).float().split([s.numel() for s in shapes.values()])
        gradient = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        expected.append(sketch.of(gradient).numpy())
    for dtype, digits in (("fp32", 1e-5), ("fp16", 1e-3), ("bf16", 8e-3)):
        rows, _ = captured(folder, dtype, packing="isolate", capture=dtype, rank=8, dimension=128)
        assert rows.dimension == 128
        assert relative(vectors(rows), np.stack(expected)) < digits
        unit = unpack(rows.take(np.arange(3, 9)), dtype).numpy()
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=digits)


@pytest.mark.parametrize("more", [{}, {"engine": "deepspeed", "zero": 1}])
def test_bf16_training_is_captured_too(folder: Path, more: dict[str, Any]) -> None:
    rows, _ = captured(folder, "fp32-again", packing="isolate")
    low, _ = captured(folder, f"low-{len(more)}", packing="isolate", precision="bf16", **more)
    assert (low.ids == rows.ids).all()
    assert relative(vectors(low), vectors(rows)) < 0.05


@pytest.mark.parametrize("packing", ["concat", "isolate"])
def test_listening_changes_the_training_by_rounding_at_most(folder: Path, packing: str) -> None:
    """Position ids are looked up row by row then, so that their gradients add up in another
    order; the forward pass of the first step is the same to the bit."""
    settings = {**SETTINGS, "packing": packing, "tokens": 2500}
    alone = train_here(folder / f"deaf-{packing}", **{**settings, "capture": ""})
    heard = train_here(folder / f"heard-{packing}", **settings)
    assert alone[0]["loss"] == heard[0]["loss"]
    for one, other in zip(alone, heard, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-6)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-5)


@pytest.mark.parametrize("saved", [0, 1])
def test_a_killed_run_captures_what_an_undisturbed_one_does(folder: Path, saved: int) -> None:
    """Stopped where it saves, and killed behind a save with rows on disk, one of them torn."""
    settings = {**SETTINGS, "packing": "isolate", "tokens": 900}
    train_here(folder / f"undisturbed-{saved}", **settings)
    out = folder / f"disturbed-{saved}"
    for stop_at in (3, 2):
        with pytest.raises(Preempted):
            train_here(out, stop_at=stop_at, **settings)
    if not saved:
        # The state of step 5 is lost with what was saved later than it: back to the first save.
        shutil.rmtree(out / "checkpoints" / "step-00000005")
    with open(out / "capture" / "rank-00000" / "gradients.npy", "ab") as handle:
        handle.write(bytes(1000))
    with open(out / "capture" / "rank-00000" / "steps.npy", "ab") as handle:
        handle.write(bytes(6))
    with pytest.raises(DataError, match="holds no finished capture"):
        read_capture(out / "capture")
    train_here(out, **settings)
    one, other = (read_capture(f / "capture") for f in (out, folder / f"undisturbed-{saved}"))
    for name in ("norms", "ids", "rows", "steps", "rates", "intervals"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    everything = np.arange(len(one))
    np.testing.assert_array_equal(one.take(everything), other.take(everything))


def test_lost_rows_are_not_passed_over(folder: Path) -> None:
    settings = {**SETTINGS, "tokens": 900}
    out = folder / "lost"
    with pytest.raises(Preempted):
        train_here(out, stop_at=3, **settings)
    path = out / "capture" / "rank-00000" / "norms.npy"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(CheckpointError, match=r"step 3, of which .*capture holds \d+ captured"):
        train_here(out, **settings)


def test_the_reader_names_what_is_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    captured(folder, "to-break")
    shutil.copytree(folder / "to-break" / "capture", tmp_path / "capture")
    path = tmp_path / "capture" / "rank-00000" / "ids.npy"
    good = path.read_bytes()
    path.write_bytes(good[:40])
    with pytest.raises(DataError, match=r"ids\.npy is damaged"):
        read_capture(tmp_path / "capture")
    path.unlink()
    with pytest.raises(DataError, match=r"ids\.npy is missing"):
        read_capture(tmp_path / "capture")
    np.save(path, np.zeros(3, np.uint64))
    with pytest.raises(DataError, match=r"ids\.npy has 3 rows, manifest\.json says"):
        read_capture(tmp_path / "capture")


def test_pieces_are_runs_of_one_document_in_one_row() -> None:
    segments = np.array([[0, 0, 1, 1], [1, 2, 2, -1], [3, 3, 3, 3]])
    pieces = spans_of(segments, "document")
    assert pieces.row.tolist() == [0, 0, 1, 1, 2]
    assert pieces.owner.tolist() == [0, 1, 1, 2, 3]
    assert pieces.begins.tolist() == [0, 2, 4, 5, 8]
    assert pieces.sizes.tolist() == [2, 2, 1, 2, 4]
    rows = spans_of(segments, "sequence")
    assert rows.row.tolist() == [0, 1, 2]
    assert rows.sizes.tolist() == [4, 3, 4]


def test_groups_sum_and_spread_the_tokens_of_pieces() -> None:
    segments = np.array([[0, 0, 1, 1], [1, 2, 2, -1]])
    pieces = spans_of(segments, "document")
    groups = TokenGroups(pieces, segments.size, torch.device("cpu"))
    values = torch.arange(16.0).view(2, 4, 2) + 1
    flat = values.view(8, 2)
    assert torch.equal(
        groups.sums(values),
        torch.stack([flat[0] + flat[1], flat[2] + flat[3], flat[4], flat[5] + flat[6]]),
    )
    expected = torch.stack([flat[0:2], flat[2:4], flat[4:6], flat[5:7]])
    expected[2, 1] = 0
    assert torch.equal(groups.spread_or_zero(values), expected)
    numbers = groups.spread(torch.arange(8).view(2, 4))
    assert numbers[[0, 1, 3]].tolist() == [[0, 1], [2, 3], [5, 6]]
    assert numbers[2, 0] == 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"zero": 3}, r"train\.zero 3 cuts up; write train\.zero: 0, 1 or 2, or write `way: dump`"),
        ({"compiled": True}, r"write train\.compile: false, or write `way: dump`"),
        ({"precision": "fp16"}, r"write train\.precision: bf16 or fp32, or write `way: dump`"),
    ],
)
def test_what_cannot_be_heard_names_the_way_out(asked: dict[str, Any], message: str) -> None:
    good = {"zero": 2, "precision": "bf16", "compiled": False}
    check_capture(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        check_capture(**{**good, **asked})


def test_the_hooks_are_gone_when_the_run_is(folder: Path) -> None:
    settings = settings_of(**SETTINGS)
    _, stream, config = prepare(folder / "x", settings)
    capture = Capture(
        folder / "hooks",
        stream,
        stream_ids(folder / "x"),
        Projection(8, 64),
        CheckpointSchedule.of(config, stream.n_tokens, 1),
        Ranks(),
    )
    train_here(folder / "hooks-run", [capture], **{**SETTINGS, "capture": ""})
    assert not any(module._forward_hooks for module in capture.engine.module.modules())
    manifest = json.loads((folder / "hooks" / "manifest.json").read_text())
    assert manifest["projection"] == {"rank": 8, "dimension": 64, "seed": 0}
