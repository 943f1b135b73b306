"""What a grid can tell apart, said by ``plan-power`` and before a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpcscale.cli.main import cli
from hpcscale.errors import ConfigError, DataError
from support import Run

LOSSES = "method,tokens,seed,loss\n" + "".join(
    f"{method},{tokens},{seed},{2 + 50 * tokens**-0.3 + shift + wobble}\n"
    for method, shift in (("random", 0.0), ("other", -0.02))
    for tokens in (1e5, 3e5, 1e6, 3e6, 1e7)
    for seed, wobble in enumerate((0.004, -0.004))
)


def plan_power(*words: object, fails: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(cli, ["plan-power", *map(str, words)])
    if fails is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, fails), result.output
    return result


def test_a_sweep_file_gives_its_grid(repository: Path, tmp_path: Path) -> None:
    output = plan_power(repository / "sweeps" / "grid.yaml", "--effect", "0.005").output
    assert "6 methods x 6 budgets (1M to 300M tokens, 2.5 decades) x 3 seeds = 108 cells" in output
    assert "seed sd 0.002 nats (assumed" in output
    assert "This grid sees 0.005 nats over all budgets" in output
    assert "warning" not in output


def test_a_table_gives_grid_noise_and_curve(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text(LOSSES)
    output = plan_power(table, "--multiplier", "1.2").output
    assert "2 methods x 5 budgets (100k to 10M tokens, 2.0 decades) x 2 seeds" in output
    assert "seed sd 0.0057 nats" in output
    assert "the power law fitted to `random`" in output
    assert "chance to see 1.2 x tokens" in output
    more = plan_power(table, "--seeds", 9, "--noise", 0.001, "--budgets", "1M:300M:4").output
    assert "4 budgets (1M to 300M tokens, 2.5 decades) x 9 seeds" in more
    assert "seed sd 0.001 nats (stated)" in more


def test_a_pilot_of_one_method_plans_a_comparison(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text("".join(line for line in LOSSES.splitlines(True) if "other" not in line))
    assert "2 methods x 5 budgets" in plan_power(table).output


def test_a_poor_grid_is_warned_of() -> None:
    output = plan_power("--budgets", "1M,2M", "--noise", 0.05, "--seeds", 2).output
    assert "warning: 2 budgets cannot give a curve: the power law needs 3 or more" in output
    assert "warning: a difference of 0.01 nats would often be missed" in output


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--budgets", "1M,x"], ConfigError, "--budgets 1M,x: "),
        (["--budgets", "1M:2"], ConfigError, "--budgets 1M:2: "),
        (["--budgets", "1M,2M", "--noise", "-1"], DataError, "noise is -1.0"),
        (["--budgets", "1M,2M", "--multiplier", "0.9"], DataError, "multiplier is 0.9"),
        (["--budgets", "1M,2M", "--effect", "1", "--multiplier", "2"], DataError, "either in nats"),
        (["--budgets", "1M,2M", "--power", "nan"], DataError, "power is nan"),
        (["nowhere.csv"], DataError, "nowhere.csv: no such file"),
    ],
)
def test_bad_input_is_named(words: Sequence[str], error: type[Exception], message: str) -> None:
    assert message in str(plan_power(*words, fails=error).exception)


def test_nothing_to_plan_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["plan-power"])
    assert result.exit_code == 2
    assert "--budgets 1M:300M:6" in result.output


def test_a_dry_run_warns_of_a_grid_that_cannot_answer(
    sweep_file: Path, hpcscale: Run, repository: Path
) -> None:
    said = hpcscale("sweep", sweep_file, "--dry-run").stdout
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "one seed a cell does not measure the noise: run 2 or more" in warning
    assert "budgets span 0.6 decades" in warning
    assert f"hpcscale plan-power {sweep_file}" in warning
    good = hpcscale("sweep", repository / "sweeps" / "grid.yaml", "--dry-run").stdout
    assert "power: methods that differ by 0.0025 nats over all budgets" in good
    assert "warning" not in good


def test_a_dry_run_plans_with_the_noise_that_the_run_directory_has(
    sweep_file: Path, hpcscale: Run
) -> None:
    analysis = sweep_file.parent / "runs" / "tiny" / "analysis"
    analysis.mkdir(parents=True)
    (analysis / "results.csv").write_text(LOSSES)
    assert "seed sd 0.0057 nats" in hpcscale("sweep", sweep_file, "--dry-run").stdout
