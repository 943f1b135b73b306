"""What an earlier version left behind, against the manifests that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hpcscale.atomic import write_done
from hpcscale.config.types import NoParams
from hpcscale.data.pool_filter import Pool, PoolFilter
from hpcscale.errors import ConfigError, DataError
from hpcscale.opened import Sweep
from hpcscale.plan.kinds import STORE
from hpcscale.preview.checks import check
from hpcscale.preview.outdated import refuse_outdated
from hpcscale.sweep import open_sweep
from support import write_sweep

#: As version 0.1 wrote it for a cut archive.
CUT = {
    "place": "/data/docs.jsonl.gz:227",
    "reason": "the file is damaged or cut off: Compressed file ended before the end-of-stream "
    "marker was reached",
}
OTHER = {"place": "/data/docs.jsonl:3", "reason": "not JSON: Expecting value: line 1 column 1"}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    texts = tmp_path / "docs.jsonl"
    texts.write_text('{"text": "some words"}\n')
    return open_sweep(write_sweep(tmp_path, texts), (), "local")


def finish(sweep: Sweep, role: str, broken: list[dict[str, str]]) -> Path:
    task = sweep.tasks.shared.stores[role]  # type: ignore[index]
    store = sweep.run_dir / task.id / "store"
    store.mkdir(parents=True)
    read = {"broken": len(broken), "first_broken": broken}
    manifest: dict[str, Any] = {"read": read, "eot_id": 0}
    (store / "manifest.json").write_text(json.dumps(manifest))
    write_done(store.parent, task.key, ["store/manifest.json"])
    return store


def test_a_store_of_a_damaged_file_is_refused_with_the_way_out(sweep: Sweep) -> None:
    refuse_outdated(sweep)
    finish(sweep, "eval", [OTHER])
    refuse_outdated(sweep)
    finish(sweep, "pool", [OTHER, CUT])
    with pytest.raises(DataError) as caught:
        check(sweep, sweep.plan())
    message = str(caught.value)
    for part in (
        "data.pool",
        "/data/docs.jsonl.gz:227",
        "end-of-stream marker",
        "Fetch the file again",
        "--set name=NAME",
    ):
        assert part in message


class Short(PoolFilter):
    def keep(self, pool: Pool) -> npt.NDArray[np.bool_]:
        return pool.lengths < 100


def test_the_corpus_behind_a_filter_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcscale.plan.data.load_filter", lambda given: Short(NoParams()))
    texts = tmp_path / "docs.jsonl"
    texts.write_text('{"text": "some words"}\n')
    file = write_sweep(tmp_path, texts)
    filtered = open_sweep(file, ("data.filters=[short]",), "local")
    assert filtered.tasks.shared.pool.name == "data/pool-short"
    finish(open_sweep(file, (), "local"), "pool", [CUT])
    with pytest.raises(DataError, match=r"data\.pool was read from a damaged file"):
        refuse_outdated(filtered)


def test_a_store_of_other_settings_does_not_matter(sweep: Sweep) -> None:
    store = finish(sweep, "pool", [CUT])
    write_done(store.parent, "another key", ["store/manifest.json"])
    refuse_outdated(sweep)


def of_model(tmp_path: Path, config: dict[str, Any], *overrides: str, **facts: Any) -> Sweep:
    """A sweep whose base model is fetched and whose tasks are all done, but for the stores."""
    texts = tmp_path / "docs.jsonl"
    texts.write_text('{"text": "some words"}\n')
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    file = write_sweep(tmp_path, texts)
    sweep = open_sweep(file, (f"model={model}", *overrides), "local")
    for task in sweep.tasks.graph:
        if task.kind is not STORE:
            folder = sweep.run_dir / task.id
            (folder / "model").mkdir(parents=True)
            (folder / "model" / "config.json").write_text(json.dumps(config))
            write_done(folder, task.key, ["model/config.json"], **facts)
    return sweep


ISOLATE = "data.packing=isolate"


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ({"model_type": "opt", "dropout": 0.1}, (), r"cells/.*`opt` with its dropout on"),
        ({"model_type": "mistral", "sliding_window": 16}, (ISOLATE,), "sliding_window of 16"),
        ({"model_type": "granite", "logits_scaling": 8.0}, (), r"scores/.*by other logits"),
        ({"model_type": "roformer"}, (), "scores/.*by other logits"),
    ],
    ids=["dropout", "window", "scale", "head"],
)
def test_results_that_an_earlier_version_got_wrong_are_refused(
    tmp_path: Path, config: dict[str, Any], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_outdated(of_model(tmp_path, config, *overrides))


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ({"model_type": "gpt2", "attn_pdrop": 0.1, "resid_pdrop": 0.1}, (ISOLATE,)),
        ({"model_type": "llama", "attention_dropout": 0.0, "sliding_window": None}, (ISOLATE,)),
        ({"model_type": "mistral", "sliding_window": 16}, ()),
        ({"model_type": "mistral", "sliding_window": 4096}, (ISOLATE,)),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False}, (ISOLATE,)),
    ],
)
def test_results_that_are_right_go_on(
    tmp_path: Path, config: dict[str, Any], overrides: tuple[str, ...]
) -> None:
    refuse_outdated(of_model(tmp_path, config, *overrides))


def test_a_model_that_was_probed_goes_on(tmp_path: Path) -> None:
    refuse_outdated(of_model(tmp_path, {"model_type": "opt", "dropout": 0.1}, probed=True))


def test_so_are_scores_of_a_model_beside_the_base(tmp_path: Path) -> None:
    scorer = tmp_path / "scorer"
    scorer.mkdir()
    (scorer / "config.json").write_text(json.dumps({"model_type": "granite"}))
    config = {"model_type": "gpt2"}
    chosen = f"selection=[{{name: low, method: perplexity, model: {scorer}, keep: low, rate: 0.5}}]"
    sweep = of_model(tmp_path, config, chosen)
    refuse_outdated(sweep)
    (fetched,) = [task for task in sweep.tasks.graph if task.name == "models/scorer"]
    copy = sweep.run_dir / fetched.id
    granite = {"model_type": "granite", "logits_scaling": 8.0}
    (copy / "model" / "config.json").write_text(json.dumps(granite))
    write_done(copy, fetched.key, ["model/config.json"])
    with pytest.raises(ConfigError, match=r"scores/perplexity-scorer/.*`granite` by other logits"):
        refuse_outdated(sweep)
