"""The command line: a quick start, help that is complete, completion, and fits of any table."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcscale import __version__
from hpcscale.cli.main import _COMMANDS, cli


def seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def test_help_answers_at_once_beside_click_itself() -> None:
    pairs = [
        (seconds("-m", "hpcscale.cli.main", "--help"), seconds("-c", "import click"))
        for _ in range(5)
    ]
    assert statistics.median(ours - theirs for ours, theirs in pairs) < 0.3


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_lists_commands_and_version() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    assert all(name in output for name in _COMMANDS)
    assert __version__ in CliRunner().invoke(cli, ["--version"]).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str) -> None:
    output = CliRunner().invoke(cli, ["completion", shell]).output
    assert "_HPCSCALE_COMPLETE" in output


def test_fit_reads_any_table(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    with open(table, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["D", "L"])
        for tokens in (1e5, 3e5, 1e6, 3e6, 1e7):
            writer.writerow([tokens, 2.0 + 50 * tokens**-0.3])
    words = [
        "fit",
        str(table),
        "--out",
        str(tmp_path / "out"),
        "--columns",
        "tokens=D,loss=L",
        "--law",
        "power",
        "--holdout",
        "1",
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    with open(tmp_path / "out" / "fits.csv", encoding="utf-8") as handle:
        rows = {row["parameter"]: row for row in csv.DictReader(handle)}
    assert float(rows["E"]["estimate"]) == pytest.approx(2.0, rel=1e-3)
    assert float(rows["B"]["estimate"]) == pytest.approx(50, rel=1e-2)
    assert float(rows["beta"]["estimate"]) == pytest.approx(0.3, rel=1e-3)
    with open(tmp_path / "out" / "holdout.csv", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert abs(float(row["relative_error"])) < 1e-4


def test_compare_says_what_differs(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    lines = ["method,tokens,seed,loss"]
    for method, floor in (("random", 3.0), ("better", 2.9)):
        for tokens in (1e5, 3e5, 1e6, 3e6, 1e7):
            for seed in range(3):
                loss = (
                    floor + 50 * tokens**-0.4 + 0.001 * (seed * (1 + (method == "better")) % 3 - 1)
                )
                lines.append(f"{method},{tokens},{seed},{loss}")
    table.write_text("\n".join(lines), encoding="utf-8")
    words = ["compare", str(table), "--out", str(tmp_path / "out"), "--law", "power"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "the loss of better is 0.1000 nats lower than that of random" in result.output
    assert (tmp_path / "out" / "tables" / "differences.tex").exists()
    alone = CliRunner().invoke(cli, [*words, "--reference", "worse"])
    assert "worse" in str(alone.exception)


def test_plot_draws_and_says_what_it_does_not(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    rows = [f"{tokens},{2 + 50 * tokens**-0.3}" for tokens in (1e5, 3e5, 1e6, 3e6, 1e7)]
    table.write_text("\n".join(["tokens,loss", *rows]), encoding="utf-8")
    words = ["plot", str(table), "--out", str(tmp_path / "out"), "--law", "power"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "not drawn: overlap: " in result.output
    assert (tmp_path / "out" / "loss-vs-tokens.svg").exists()
    assert (tmp_path / "out" / "figures" / "residuals.pdf").exists()


def test_a_run_without_results_says_where_they_come_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert "`hpcscale sweep` writes it once a cell is done" in str(result.exception)
