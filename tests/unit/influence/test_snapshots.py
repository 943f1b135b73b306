"""Snapshots of a proxy run: where they lie, what they weigh, and Adam's metric read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hpcscale.config.train import TrainConfig
from hpcscale.errors import CheckpointError, ConfigError, Preempted
from hpcscale.influence.checkpoint_schedule import CheckpointSchedule
from hpcscale.influence.snapshots import Snapshot, read_snapshots
from hpcscale.model.build import load_model
from hpcscale.model.forward import token_nll
from hpcscale.train.schedule import Schedule
from training import make_store, prepare, settings_of, train_here

CPU = torch.device("cpu")
#: 2,500 tokens at 128 a step: 20 steps, the last of 68 tokens.
STEPS, K = 20, 3
ENDS = [7, 13, 20]
SETTINGS: dict[str, Any] = {"micro_batch": 4, "snapshots": K}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots")
    make_store(folder / "store")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    train_here(folder / "whole", **SETTINGS)
    return folder / "whole"


def plain_run(folder: Path) -> dict[int, dict[str, dict[str, torch.Tensor]]]:
    """AdamW by hand: weights and second moments after each step."""
    settings = settings_of(micro_batch=8)
    model, stream, config = prepare(folder / "plain", settings)
    schedule = Schedule.of(config, stream.n_tokens)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
    states, seen = {}, 0
    for step in range(STEPS):
        batch = stream.rows(step * 8, min(step * 8 + 8, stream.n_rows))
        seen += batch.n_tokens
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        optimizer.zero_grad()
        (token_nll(model, inputs, targets).sum() / batch.n_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(seen)
        optimizer.step()
        states[step + 1] = {
            "v": {n: optimizer.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()},
            "w": {n: p.detach().clone() for n, p in model.named_parameters()},
        }
    return states


def test_snapshots_hold_the_weights_and_moments_of_plain_adamw(folder: Path, whole: Path) -> None:
    states = plain_run(folder)
    snapshots = read_snapshots(whole / "snapshots")
    assert [snapshot.step for snapshot in snapshots] == ENDS
    assert [snapshot.t for snapshot in snapshots] == ENDS
    assert [snapshot.tokens for snapshot in snapshots] == [7 * 128, 13 * 128, 2500]
    for snapshot in snapshots:
        expected = states[snapshot.step]
        found = snapshot.second_moments()
        assert list(found) == list(expected["v"])
        loaded = dict(load_model(snapshot.model).named_parameters())
        for name, v in expected["v"].items():
            assert torch.allclose(found[name], v, rtol=1e-4, atol=1e-6 * float(v.max())), name
            assert torch.allclose(loaded[name], expected["w"][name], atol=1e-5), name


def test_eta_is_the_sum_of_the_rates_that_the_run_logged(whole: Path) -> None:
    lines = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
    for snapshot, first in zip(read_snapshots(whole / "snapshots"), [0, *ENDS], strict=False):
        rates = [line["lr"] for line in lines if first < line["step"] <= snapshot.step]
        assert snapshot.eta == pytest.approx(sum(rates), rel=1e-12)


def test_a_stopped_run_leaves_the_snapshots_of_an_undisturbed_one(
    folder: Path, whole: Path
) -> None:
    out = folder / "stopped"
    for stop_at in (4, 6):  # inside of intervals, and right behind the first end by a kill
        with pytest.raises(Preempted):
            train_here(out, stop_at=stop_at, **SETTINGS)
    # As though the kill came behind a snapshot whose step was not saved.
    late = out / "snapshots" / "step-00000013"
    shutil.copytree(whole / "snapshots" / "step-00000007", late)
    (out / "snapshots" / "step-00000020.partial").mkdir()
    train_here(out, **SETTINGS)
    for one, other in zip(
        read_snapshots(out / "snapshots"), read_snapshots(whole / "snapshots"), strict=True
    ):
        assert (one.step, one.eta, one.t) == (other.step, other.eta, other.t)
        for name, v in other.second_moments().items():
            assert torch.equal(one.second_moments()[name], v)
        assert (one.model / "model.safetensors").read_bytes() == (
            other.model / "model.safetensors"
        ).read_bytes()
    assert sorted(path.name for path in (out / "snapshots").iterdir()) == [
        f"step-{step:08d}" for step in ENDS
    ]


def test_a_lost_snapshot_is_not_passed_over(folder: Path) -> None:
    out = folder / "lost"
    with pytest.raises(Preempted):
        train_here(out, stop_at=9, **SETTINGS)
    shutil.rmtree(out / "snapshots" / "step-00000007")
    with pytest.raises(CheckpointError, match=r"step-00000007 is missing; delete the run's"):
        train_here(out, **SETTINGS)


def test_watching_changes_no_bit_of_the_training(folder: Path, whole: Path) -> None:
    alone = train_here(folder / "alone", micro_batch=4)
    watched = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [x["loss"] for x in alone] == [x["loss"] for x in watched]
    assert [x["grad_norm"] for x in alone] == [x["grad_norm"] for x in watched]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 19, 20])
def test_intervals_are_even_and_cover_every_step_once(count: int) -> None:
    config = TrainConfig(global_batch=128)
    intervals = CheckpointSchedule.of(config, 2500, count)
    sizes = np.diff([0, *intervals.ends])
    assert intervals.ends[-1] == STEPS
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    assert intervals.ends == tuple(round(STEPS * (k + 1) / count) for k in range(count))
    assert [intervals.of_step(s) for s in range(1, STEPS + 1)] == list(
        np.repeat(np.arange(count), sizes)
    )
    assert sum(map(intervals.eta, range(count))) == pytest.approx(sum(intervals.rates))


@pytest.mark.parametrize("count", [0, 21])
def test_more_snapshots_than_steps_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"{count} snapshots .* of 20 steps .*ask for 1 to 20"):
        CheckpointSchedule.of(TrainConfig(global_batch=128), 2500, count)


# --- fragments that do not fit together


def copy_of(whole: Path, folder: Path) -> tuple[Snapshot, Path]:
    shutil.copytree(whole / "snapshots" / "step-00000007", folder / "step-00000007")
    (snapshot,) = read_snapshots(folder)
    return snapshot, snapshot.folder / "moments-00000.safetensors"


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_adams_metric_is_that_of_its_updates_and_0_where_nothing_moved(
    whole: Path, tmp_path: Path, power: float
) -> None:
    snapshot, path = copy_of(whole, tmp_path)
    tensors = load_file(path)
    tensors["transformer.wpe.weight@0"][-32:] = 0  # as of a position that no row reaches
    save_file(tensors, path)
    metric = snapshot.preconditioner(power, CPU)
    for name, v in snapshot.second_moments().items():
        exact = v.double().numpy()
        expected = np.zeros_like(exact)
        moved = exact > 0
        step = np.sqrt(exact[moved] / (1 - 0.95**7)) + 1e-8
        expected[moved] = step**-power
        assert moved.all() == (name != "transformer.wpe.weight")
        np.testing.assert_allclose(metric[name].numpy(), expected, rtol=2e-6)


def test_fragments_of_several_ranks_are_put_together(whole: Path, tmp_path: Path) -> None:
    """As ranks that cut anywhere would have left them."""
    snapshot, path = copy_of(whole, tmp_path)
    expected = snapshot.second_moments()
    parts: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for number, (name, v) in enumerate(expected.items()):
        flat = v.flatten()
        for rank, piece in enumerate(torch.tensor_split(flat, 3)):
            begin = sum(len(p) for p in torch.tensor_split(flat, 3)[:rank])
            parts[(rank + number) % 3][f"{name}@{begin}"] = piece.clone()
    for rank, part in enumerate(parts):
        save_file(part, path.with_name(f"moments-{rank:05d}.safetensors"))
    facts = json.loads((snapshot.folder / "snapshot.json").read_text())
    (snapshot.folder / "snapshot.json").write_text(json.dumps({**facts, "world_size": 3}))
    (again,) = read_snapshots(tmp_path)
    for name, v in again.second_moments().items():
        assert torch.equal(v, expected[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", r"hold the first 0 of 9600 elements of transformer\.wte\.weight and no more"),
        ("shorten", r"hold the first 9599 of 9600 elements of transformer\.wte\.weight"),
        ("overlap", r"moments-00000\.safetensors holds the elements 10 to 20 of transformer\.wte"),
        ("delete", r"moments-00000\.safetensors cannot be read"),
        ("cut", r"moments-00000\.safetensors cannot be read"),
    ],
)
def test_broken_fragments_name_file_and_parameter(
    whole: Path, tmp_path: Path, change: str, message: str
) -> None:
    snapshot, path = copy_of(whole, tmp_path)
    tensors, key = load_file(path), "transformer.wte.weight@0"
    if change == "drop":
        del tensors[key]
    elif change == "shorten":
        tensors[key] = tensors[key][:-1].clone()
    elif change == "overlap":
        tensors["transformer.wte.weight@10"] = tensors[key][10:20].clone()
    save_file(tensors, path)
    if change == "delete":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=message):
        snapshot.preconditioner(1.0, CPU)


def test_a_folder_without_snapshots_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no snapshot"):
        read_snapshots(tmp_path)
