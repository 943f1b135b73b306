"""Tables keep all digits for programs and show few to readers."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalinglaws.errors import AnalysisError
from scalinglaws.tables import (
    Table,
    cell_text,
    columns,
    escape_latex,
    interval_text,
    latex,
    tokens_text,
    write_table,
)

FRAME = pd.DataFrame(
    {
        "method": ["a_b & 50% of {x}", "random", "<script>"],
        "tokens": [64_000.0, 3_130_000.0, np.nan],
        "loss": [1 / 3, -np.pi, np.inf],
        "ci_low": [0.1, -np.inf, np.nan],
        "ci_high": [np.nan, np.inf, np.nan],
        "paired": [True, False, True],
        "seed": [1, 2, 3_000],
    }
)
TABLE = Table("losses", "Losses of 3 methods & more", FRAME, {"tokens": "training tokens"})


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (64_000, "tokens", "64k"),
        (3_130_000, "tokens", "3.13M"),
        (999_999, "tokens", "1M"),
        (3e11, "tokens", "300B"),
        (0.00012, "p", "<0.001"),
        (0.0314, "p", "0.031"),
        (-0.02134, "loss", "−0.0213"),
        (0.875, "percent", "87.5 %"),
        (1.234, "factor", "1.23×"),
        (1234567, "number", "1,234,567"),
        (2e-7, "number", "2e−7"),
        (1.2446e15, "number", "1.245e15"),
        (12345.0, "number", "12,345"),
        (392_345.6, "number", "392,300"),
        (1e100, "number", "1e100"),
        (-1.23e-5, "loss", "−1.2e−5"),
        (0.0, "loss", "0.0000"),
        (3000.0, "plain", "3000"),
        (np.nan, "loss", "—"),
        (None, "number", "—"),
        (pd.NA, "tokens", "—"),
        (-np.inf, "loss", "−∞"),
        (np.bool_(False), "number", "no"),
        ("64-k", "tokens", "64-k"),
    ],
)
def test_values_are_written_for_readers(value: object, kind: str, text: str) -> None:
    assert cell_text(value, kind) == text


@pytest.mark.parametrize("digits", range(3, 14))
def test_token_counts_read_back_to_three_digits(digits: int) -> None:
    for lead in (1.0, 1.004, 9.96, 9.994, 9.996):
        tokens = lead * 10**digits
        number, suffix = re.fullmatch(r"([\d.]+)([kMBT]?)", tokens_text(tokens)).groups()  # type: ignore[union-attr]
        scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[suffix]
        assert float(number) < 1000
        assert float(number) * scale == pytest.approx(tokens, rel=0.0051)


def test_an_open_end_is_told_from_a_missing_interval() -> None:
    assert interval_text(0.1, np.nan, "loss") == "[0.1000, open]"
    assert interval_text(-np.inf, 2.0) == "[−∞, 2]"
    assert interval_text(np.nan, np.nan) == ""


def test_an_interval_shares_the_cell_of_its_estimate() -> None:
    shown = {column.heading: column for column in columns(TABLE)}
    assert list(shown) == [
        "method",
        "training tokens",
        "loss [95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI]",
        "paired",
        "seed",
    ]
    estimates = shown["loss [95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI]"]
    assert [cell.text for cell in estimates.cells] == [
        "0.3333 [0.1000, open]",
        "−3.1416 [−∞, ∞]",
        "∞",
    ]
    assert [cell.value for cell in estimates.cells] == [1 / 3, -np.pi, np.inf]
    assert estimates.numeric
    assert not shown["paired"].numeric


def test_csv_and_json_keep_every_digit(tmp_path: Path) -> None:
    paths = write_table(TABLE, tmp_path / "new")
    assert [path.name for path in paths] == ["losses.csv", "losses.json", "losses.tex"]
    rows = list(csv.DictReader(paths[0].read_text(encoding="utf-8").splitlines()))
    assert [row["method"] for row in rows] == list(FRAME["method"])
    losses = [float(row["loss"]) for row in rows]
    assert losses == list(FRAME["loss"])
    records = json.loads(paths[1].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert records[1]["loss"] == -np.pi
    assert records[2] == {
        "method": "<script>",
        "tokens": None,
        "loss": None,
        "ci_low": None,
        "ci_high": None,
        "paired": True,
        "seed": 3000,
    }


def test_latex_has_booktabs_a_label_and_no_bare_special_character() -> None:
    text = latex(TABLE)
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\label{tab:losses}",
        r"a\_b \& 50\% of \{x\}",
        r"\begin{tabular}{lrrlr}",
        r"0.3333 [0.1000, open]",
        r"$-$3.1416 [$-$$\infty$, $\infty$]",
    ):
        assert part in text
    assert "nan" not in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(FRAME)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    plain = re.sub(r"\\[{}]", "", text)
    depths = np.cumsum([{"{": 1, "}": -1}.get(character, 0) for character in plain])
    assert depths.min() == 0
    assert depths[-1] == 0


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles_in_an_article(tmp_path: Path) -> None:
    hostile = "\\{}&%$#_~^<>|\"'−∞×—Δ é [x]"
    frame = pd.DataFrame({"[name]": ["[1]", hostile, "*"], hostile: 1.0})
    write_table(Table("losses", hostile, frame, notes=hostile), tmp_path)
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{losses.tex}"
        r"Table~\ref{tab:losses}\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("character", list("\\{}&%$#_~^<>|"))
def test_each_special_character_is_escaped(character: str) -> None:
    assert escape_latex(f"a{character}b") not in (f"a{character}b", "ab")


def test_an_empty_frame_is_a_table(tmp_path: Path) -> None:
    _, records, tex = write_table(Table("none", "Nothing", FRAME.iloc[:0]), tmp_path)
    assert json.loads(records.read_text(encoding="utf-8")) == []
    assert r"\bottomrule" in tex.read_text(encoding="utf-8")


def test_what_cannot_be_a_table_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"`\.\./up` cannot name a file"):
        Table("../up", "", FRAME)
    with pytest.raises(
        AnalysisError, match="gives column loss the format `los`; the formats are number"
    ):
        Table("losses", "", FRAME, formats={"loss": "los"})
    with pytest.raises(AnalysisError, match="columns twice: method"):
        Table("losses", "", pd.concat([FRAME, FRAME[["method"]]], axis=1))
