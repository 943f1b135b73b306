"""``hpcscale influence validate`` on the run directory of a tiny sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcscale.cli.influence_validate import command
from hpcscale.errors import ConfigError, DataError, HpcscaleError
from support import SWEEP, Run, hpcscale, texts

__all__ = ["hpcscale", "texts"]  # fixtures
SMALL = ["--queries", "12", "--checkpoints", "2", "--variant", "cosine", "--variant", "adam@256"]


def invoke(*words: object) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(done.exception, HpcscaleError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_every_experiment_from_the_command_line(tmp_path: Path, texts: Path, hpcscale: Run) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(root=tmp_path / "runs", texts=texts))
    run, out = tmp_path / "runs" / "tiny", tmp_path / "out"
    hpcscale("sweep", file, "--executor", "local")
    language = tmp_path / "latin.txt"
    language.write_text("gallia est omnis divisa in partes tres " * 300)

    shown = invoke(
        "noise",
        run,
        "--out",
        out,
        "--documents",
        16,
        "--proxy-tokens",
        "2k",
        "--other-language",
        language,
        *SMALL,
    )
    assert "its eval set is used instead" in shown
    found = rows(out / "noise-auc.csv")
    assert [row["noise"] for row in found] == [
        "shuffled-words",
        "shuffled-letters",
        "repeated",
        "language-latin",
        "mean of kinds",
    ]
    assert all(0 <= float(row["adam@256"]) <= 1 for row in found)

    invoke("domains", run, "--out", out, "--documents", 30, "--proxy-tokens", "2k", *SMALL)
    found = rows(out / "domains-auc.csv")
    assert [row["domain"] for row in found] == ["code", "sea", "mean of domains"]
    assert float(found[-1]["cosine"]) > 0.8
    assert float(found[-1]["bm25"]) > 0.8

    invoke("lds", run, "--out", out, "--candidates", 12, "--subsets", 5, "--epochs", 1, *SMALL)
    assert [row["variant"] for row in rows(out / "lds-lds.csv")] == ["cosine", "adam@256", "bm25"]

    shown = invoke(
        "counterfactual",
        run,
        "--out",
        out,
        "--candidates",
        40,
        "--budget",
        "600",
        "--proxy-tokens",
        "2k",
        "--seeds",
        2,
        "--domain",
        "sea",
        "--lr",
        "2e-3",
        "--global-batch",
        "128",
        *SMALL,
        "--queries",
        6,
    )
    assert "cosine bottom" in shown
    settings = json.loads((out / "counterfactual-settings.json").read_text())
    assert settings["train"]["lr"] == 2e-3
    assert settings["options"]["budget"] == 600
    for experiment in ("noise", "domains", "lds", "counterfactual"):
        assert (out / f"{experiment}.png").stat().st_size > 5_000
        assert (out / f"{experiment}.txt").read_text().strip()

    with pytest.raises(DataError, match=r"9999 documents were asked for, but .* ask for fewer"):
        invoke("noise", run, "--out", out, "--documents", 9999)
    with pytest.raises(ConfigError, match="there is no variant 'euclid'"):
        invoke("lds", run, "--out", out, "--variant", "euclid")
    (next(run.glob("data/pool-*")) / "done.json").unlink()
    with pytest.raises(DataError, match=r"the candidate pool of tiny is not in .* yet; make it"):
        invoke("lds", run, "--out", out)


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        invoke("noise", tmp_path, "--out", tmp_path / "out")


def test_a_budget_that_is_no_count_names_its_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--proxy-tokens: 'many' is not a count"):
        invoke("noise", tmp_path, "--out", tmp_path / "out", "--proxy-tokens", "many")
