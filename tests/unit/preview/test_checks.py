"""What is refused before anything is submitted, and what a dry run only notes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from hpcscale.atomic import write_done
from hpcscale.config.profile import SiteProfile
from hpcscale.errors import ClusterError, ConfigError, DataError
from hpcscale.opened import Sweep
from hpcscale.preview.checks import check
from planning import open_plan

SITE = "name: here\npartition: {partition}\ncpus_per_node: 4\n"
REMOTE = "data.pool={corpus: c4, tokens: 48M}"


def refusal(sweep: Sweep) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        check(sweep, sweep.plan())
    return str(caught.value)


def test_a_good_sweep_passes_and_leaves_nothing(tmp_path: Path) -> None:
    sweep = open_plan(tmp_path)
    assert check(sweep, sweep.plan()) == []
    assert not sweep.run_dir.exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budgets=[49M]", "budget 49M is larger than what selection `random` keeps: about 48M of"),
        ("resources.train.ranks=3", "ranks may number ["),
        ("resources.base.ranks=3", "ranks may number ["),
        ("train.micro_batch=3", "write one of ["),
    ],
)
def test_what_would_fail_on_a_node_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(open_plan(tmp_path, override))


def test_a_budget_over_the_pool_may_repeat_it(tmp_path: Path) -> None:
    assert "train.epochs: 2" in refusal(open_plan(tmp_path, "budgets=[49M]"))
    sweep = open_plan(tmp_path, "budgets=[49M]", "train.epochs=2")
    assert check(sweep, sweep.plan()) == []


def test_a_root_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(open_plan(tmp_path, f"root={tmp_path / 'file' / 'runs'}"))
    assert message.startswith("root: ")
    assert message.endswith("choose another with --set root=DIR")


def test_a_model_with_too_few_positions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"n_positions": 512}))
    message = refusal(open_plan(tmp_path, f"model={tmp_path / 'model'}"))
    assert "data.sequence_length 1024 is longer than the 512 positions of" in message


def pointer(folder: Path) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    return file


def test_a_pointer_is_refused_unless_its_store_is_done(tmp_path: Path) -> None:
    given = f"data.pool={{corpus: files, path: {pointer(tmp_path)}, tokens: 48M}}"
    sweep = open_plan(tmp_path, given)
    assert "is a Git LFS pointer" in refusal(sweep)
    task = sweep.tasks.shared.pool
    (sweep.run_dir / task.id / "store").mkdir(parents=True)
    (sweep.run_dir / task.id / "store" / "manifest.json").write_text('{"eot_id": 0}')
    write_done(sweep.run_dir / task.id, task.key, ["store/manifest.json"])
    assert check(sweep, sweep.plan()) == []


def on_slurm(
    tmp_path: Path, patch: pytest.MonkeyPatch, *overrides: str, more: str = ""
) -> tuple[Sweep, list[set[str]]]:
    """A sweep for a queue, and the partitions that are asked for."""
    sweep = open_plan(
        tmp_path, *overrides, executor="slurm", site=SITE.format(partition="main") + more
    )
    asked: list[set[str]] = []

    def known(profile: SiteProfile, partitions: Collection[str]) -> None:
        asked.append(set(partitions))
        if "atlantis" in partitions:
            raise ClusterError("there is no partition `atlantis`")

    patch.setattr(sweep.backend, "check", known)
    return sweep, asked


def test_every_partition_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, asked = on_slurm(tmp_path, monkeypatch, "resources.train.partition=gpu")
    assert check(sweep, sweep.plan()) == []
    assert asked == [{"main", "gpu"}]
    lost, _ = on_slurm(tmp_path, monkeypatch, "resources.train.partition=atlantis")
    with pytest.raises(ClusterError):
        check(lost, lost.plan())


def test_a_dry_run_asks_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, asked = on_slurm(tmp_path, monkeypatch, "resources.train.partition=atlantis")
    assert check(sweep, sweep.plan(), dry_run=True) == []
    assert asked == []


def test_what_needs_a_network_is_prepared_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, asked = on_slurm(tmp_path, monkeypatch, REMOTE)
    with pytest.raises(ConfigError) as caught:
        check(sweep, sweep.plan())
    message = str(caught.value)
    assert "data/pool need the network for data.pool (c4)" in message
    assert f"run `hpcscale data prepare {sweep.path}`" in message
    assert asked == []
    assert check(sweep, sweep.plan(), dry_run=True) == [message]
    online, _ = on_slurm(tmp_path, monkeypatch, REMOTE, more="network_on_compute: true\n")
    assert check(online, online.plan()) == []


def test_what_is_prepared_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, _ = on_slurm(tmp_path, monkeypatch, REMOTE)
    for task in sweep.tasks.prepared():
        folder = sweep.run_dir / task.id
        (folder / "store").mkdir(parents=True)
        (folder / "store" / "manifest.json").write_text('{"eot_id": 0}')
        write_done(folder, task.key, ["store/manifest.json"])
    assert check(sweep, sweep.plan()) == []
