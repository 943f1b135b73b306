"""An analysis from end to end: what is written, what the verdict says, what is left open."""

from __future__ import annotations

import json
import subprocess
import sys
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulated import BASE, BUDGETS, results, truth, write_run

from scalinglaws import AnalysisError, analyse
from scalinglaws.analysis import Analysis, Options
from scalinglaws.api import sentences, write_tables
from scalinglaws.checklist import UNKNOWN, checklist
from scalinglaws.figures import Drawing
from scalinglaws.page import render
from scalinglaws.report import page

EXAMPLE = Path(__file__).parents[3] / "analysis" / "examples" / "paper.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return Analysis(run, Options(laws=("rectified", "power"), holdout=1))


@pytest.fixture(scope="module")
def written(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    analyse(analysis, out)
    return out


def said(analysis: Analysis) -> str:
    return "\n".join(sentence.text for sentence in sentences(analysis))


def test_the_verdict_tells_what_differs_and_what_does_not(analysis: Analysis) -> None:
    lines = {s.text: s.level for s in sentences(analysis)}
    (far,) = [t for t in lines if "the loss of far is" in t]
    assert "lower than that of random" in far
    assert lines[far] == "finding"
    (same,) = [t for t in lines if t.startswith("At 10M tokens same and random")]
    assert lines[same] == "open"
    assert any(text.startswith("The methods differ (p") for text in lines)


def test_the_multiplier_of_the_verdict_is_the_true_one(analysis: Analysis) -> None:
    """Tokens that random needs for the loss of ``far``, from the curves that made the data."""
    found = analysis.need_comparison().multipliers
    at = found[(found["method"] == "far") & (found["charged"] == "none")]
    row = at.iloc[(at["tokens"] - BUDGETS[2]).abs().argmin()]
    grid = np.geomspace(1e4, 1e9, 200_000)
    needed = np.interp(-truth("far", row["tokens"]), -truth("random", grid), grid)
    assert row["ci_low"] < needed / row["tokens"] < row["ci_high"]


def test_selection_that_costs_is_worth_less(analysis: Analysis) -> None:
    found = analysis.need_comparison().multipliers.set_index(["method", "tokens", "charged"])
    for (method, tokens, charged), row in found.iterrows():
        if charged != "none" and np.isfinite(row["multiplier"]):
            assert row["multiplier"] < found.loc[(method, tokens, "none"), "multiplier"]


def test_everything_is_written(written: Path) -> None:
    fits = pd.read_csv(written / "fits.csv")
    columns = "law method parameter estimate ci_low ci_high converged identified"
    assert list(fits.columns) == columns.split()
    held = pd.read_csv(written / "holdout.csv")
    columns = "law method tokens loss predicted ci_low ci_high relative_error"
    assert list(held.columns) == columns.split()
    names = "parameters model-choice differences multipliers nested-tests cells checklist"
    for name in [*names.split(), "diagnostics"]:
        assert (written / "tables" / f"{name}.tex").read_text().count(r"\toprule") == 1
        assert json.loads((written / "tables" / f"{name}.json").read_text())
    for suffix in ("png", "pdf", "svg"):
        assert (written / f"loss-vs-tokens.{suffix}").stat().st_size > 1000
        assert len(list((written / "figures").glob(f"*.{suffix}"))) >= 10


def test_the_report_holds_it_all(written: Path, analysis: Analysis) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "Scaling laws of data selection: simulated" in text
    assert text.count("<figure") >= 11
    for sentence in sentences(analysis):
        assert escape(sentence.text) in text
    cell = analysis.inputs.results["cell"].iloc[0]
    assert cell in text
    assert analysis.inputs.results["fingerprint"].iloc[0] in text


def test_figures_of_an_earlier_analysis_do_not_stay(written: Path, run: Path) -> None:
    stale = written / "figures" / "of-another-method.png"
    stale.write_bytes(b"")
    frame = results()
    analyse(frame[frame["method"] == "random"], written, base_loss=BASE, laws=("rectified",))
    assert not stale.exists()
    assert not (written / "tables" / "differences.csv").exists()


def test_one_method_has_no_comparison(tmp_path: Path) -> None:
    alone = Analysis(results().query("method == 'far'"), Options(laws=("rectified",)))
    assert alone.comparison is None
    with pytest.raises(AnalysisError, match="one method, far, and nothing to compare"):
        alone.need_comparison()
    assert "0 decades" not in said(alone)


def test_an_unknown_reference_is_named() -> None:
    wrong = Analysis(results(), Options(laws=("rectified",), reference="rnadom"))
    with pytest.raises(AnalysisError, match=r"rnadom.*random, far, same"):
        wrong.need_comparison()


def test_a_table_that_no_law_fits_is_still_reported(tmp_path: Path) -> None:
    frame = results()
    few = frame[frame["tokens"] < BUDGETS[2] * 0.9]
    told = analyse(few, tmp_path)
    assert told["law"] is None
    assert any("No law could be fitted" in line["text"] for line in told["verdict"])
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "tables" / "differences.json").read_text())


def test_what_was_left_out_stands_in_the_report(tmp_path: Path) -> None:
    frame = results()
    frame.loc[4, "loss"] = np.nan
    frame.loc[16, "loss"] = 11.0
    part = Analysis(frame, Options(laws=("rectified",)))
    assert len(part.inputs.losses.left_out) == 2
    write_tables(part, tmp_path)
    reasons = pd.read_csv(tmp_path / "left-out.csv")["reason"]
    assert len(reasons) == 2
    text = render(page(part, Drawing((), {"a figure": "a reason"}), {}))
    assert all(escape(reason) in text for reason in reasons)
    assert "Not drawn: a figure: a reason." in text
    kept = Analysis(frame, Options(laws=("rectified",), keep_outliers=True))
    assert len(kept.inputs.losses.left_out) == 1


def test_the_checklist_says_what_is_known_and_what_is_not(analysis: Analysis) -> None:
    answers = checklist(analysis.study, analysis.inputs).set_index("question")["answer"]
    assert answers["How many runs?"] == "45, 3 selection methods"
    assert answers["Which schedule?"] == "schedule cosine, peak 0.001"
    assert answers["Which optimizer?"] == UNKNOWN
    assert "no run repeats" in answers["Are data repeated?"]


def test_the_example_makes_a_paper(run: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLE), str(run), str(tmp_path / "paper")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "lower than that of random" in done.stdout
    assert (tmp_path / "paper" / "figure-1.pdf").stat().st_size > 1000
    assert (tmp_path / "paper" / "tables" / "parameters.tex").exists()
