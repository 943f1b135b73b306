"""What goes to Slurm, as text."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hpcscale.cluster.executor import SlurmExecutor
from hpcscale.config.profile import SiteProfile
from hpcscale.config.resources import Resources
from hpcscale.errors import ConfigError
from sites import KINDS, profile

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_of_each_container_kind_is_the_golden_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written again with HPCSCALE_GOLDEN=write, then read in review."""
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    script = SlurmExecutor(profile(kind), Path("/runs/x/logs")).render(
        stage="train",
        name="x-train",
        resources=Resources(
            nodes=2, gpus=4, cpus=8, ranks=4, memory="64GiB", time="4h", array_parallelism=3
        ),
        payloads=[["cells/a"], ["cells/b"]] * 3,
        run_dir=Path("/runs/x"),
        dependencies=["7", "9"],
    )  # type: ignore[arg-type]
    golden = GOLDEN / f"train-{kind}.sbatch"
    if os.environ.get("HPCSCALE_GOLDEN") == "write":
        golden.write_text(script)
    assert script == golden.read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_cpu_ranks_ask_for_no_gpu_and_one_task_is_no_array() -> None:
    script = SlurmExecutor(SiteProfile(name="s"), Path("/l")).render(
        stage="data",
        name="d",
        resources=Resources(gpus=0, cpus=2, ranks=3),
        payloads=[["a"]],
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert "gpu" not in script
    assert "--array" not in script
    assert "--dependency" not in script
    assert "--ntasks-per-node=3" in script
    assert "--requeue" in script
    assert "--open-mode=append" in script


def test_a_thousand_array_tasks_render_in_a_moment() -> None:
    payloads = [[f"cells/{i}", f"evaluations/{i}"] for i in range(1000)]
    started = time.perf_counter()
    SlurmExecutor(SiteProfile(name="s"), Path("/l")).render(
        stage="train",
        name="t",
        resources=Resources(gpus=0, cpus=1),
        payloads=payloads,
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert time.perf_counter() - started < 1


def test_jobs_are_not_sent_where_they_would_not_be_looked_for() -> None:
    site = SiteProfile(name="s", extra_sbatch={"clusters": "b"})
    with pytest.raises(ConfigError, match=r"`s` has clusters under extra_sbatch.*SLURM_CONF"):
        SlurmExecutor(site, Path("/l"))


def test_nodes_are_excluded_beside_the_sites_own() -> None:
    site = SiteProfile(name="s", extra_sbatch={"exclude": "n9"})
    script = SlurmExecutor(site, Path("/l"), exclude=["n1", "n2"]).render(
        stage="train",
        name="t",
        resources=Resources(gpus=0, cpus=1),
        payloads=[["a"]],
        run_dir=Path("/r"),
        dependencies=[],
    )
    assert "#SBATCH --exclude=n9,n1,n2\n" in script
