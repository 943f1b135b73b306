"""The forecast of influence: bytes to the byte, memory and time within reason, and the refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpcscale.errors import ConfigError
from hpcscale.influence.gradient_shards import shard_parts
from hpcscale.opened import Sweep
from hpcscale.preview import influence_cost as module
from hpcscale.preview.checks import check
from hpcscale.preview.influence_cost import disk_problem, forecast, forecast_lines
from planning import open_plan

INFLUENCE = (
    "data.query={corpus: stdlib, tokens: 96k}",
    "influence={proxy: {tokens: 6M, checkpoints: 3}, projection: {dimension: 4096}}",
    "selection=[{name: a, method: tracin}]",
)


def sweep(folder: Path, *overrides: str) -> Sweep:
    return open_plan(folder, *INFLUENCE, *overrides)


def test_bytes_are_those_that_a_shard_takes(tmp_path: Path) -> None:
    opened = sweep(tmp_path)
    found = forecast(opened, opened.plan())
    assert found is not None
    parts = shard_parts("fp16", 4096)
    of_row = sum(np.dtype(p.dtype).itemsize * (p.columns or 1) for p in parts.values())
    assert found.row_bytes == of_row + np.dtype(np.int64).itemsize
    assert found.rows == 3 * (48_000_000 + 96_000) // 480
    assert found.assumed
    assert "about 300600 rows" in " ".join(forecast_lines(opened, opened.plan()))


def test_a_whole_gradient_is_as_long_as_the_model(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "influence.projection=none", "influence.dtype=fp32")
    found = forecast(opened, opened.plan())
    assert found is not None
    assert found.dimension == pytest.approx(124.4e6, rel=0.01)


def test_no_gradients_no_forecast(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "selection=[random]")
    assert forecast(opened, opened.plan()) is None
    assert forecast_lines(opened, opened.plan()) == []
    assert disk_problem(opened, opened.plan()) is None


def test_what_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free", lambda run_dir: 1 << 30)
    opened = sweep(tmp_path)
    fitting = int((0.95 * (1 << 30) // 300_600 - 12) // 2)
    problem = disk_problem(*_planned(opened))
    assert problem
    assert f"write `influence: {{projection: {{dimension: {fitting}}}}}` or less" in problem
    with pytest.raises(ConfigError, match=r"has only 972\.8 MiB free"):
        check(*_planned(opened))
    assert check(*_planned(opened), dry_run=True) == [problem]
    of_dimension = "influence.projection.dimension={}".format
    assert disk_problem(*_planned(sweep(tmp_path, of_dimension(fitting)))) is None
    assert disk_problem(*_planned(sweep(tmp_path, of_dimension(fitting + 1))))
    assert disk_problem(*_planned(sweep(tmp_path, "selection.0.way=direct"))) is None


def _planned(opened: Sweep):  # type: ignore[no-untyped-def]
    return opened, opened.plan()


def test_time_comes_from_what_was_measured_here(tmp_path: Path) -> None:
    opened = sweep(tmp_path, "resources.dump={shards: 4, ranks: 2}")
    least = forecast(*_planned(opened))
    assert least is not None
    assert "multiplies matrices" in least.rate
    folder = opened.run_dir / "influence" / "proxy-00000000"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"kind": "proxy"}))
    facts = {"tokens_per_second": 3000.0, "world_size": 3}
    (folder / "done.json").write_text(json.dumps({"facts": facts}))
    measured = forecast(*_planned(opened))
    assert measured is not None
    assert measured.seconds == pytest.approx(48_000_000 / 4 / 2 / 1000)
    assert "1k tokens/s a rank of proxy tasks" in measured.rate
