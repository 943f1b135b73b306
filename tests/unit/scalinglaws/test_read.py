from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scalinglaws.errors import AnalysisError
from scalinglaws.read import count_of, read_losses

GADRE = Path(__file__).parents[4] / "shared/data/scaling/mlfoundations-scaling/gadre_104_models.csv"
BUDGETS = (64_000, 128_000, 256_000, 512_000)


def clean(methods: tuple[str, ...] = ("random", "chosen"), seeds: int = 2) -> pd.DataFrame:
    """Falling losses, 0.5 % apart between methods and 0.1 % between seeds."""
    rows = [
        {
            "method": method,
            "tokens": tokens,
            "seed": seed,
            "loss": (3.0 + 40 * tokens**-0.4) * (1 - 0.005 * place) * (1 + 0.001 * seed),
        }
        for place, method in enumerate(methods)
        for seed in range(seeds)
        for tokens in BUDGETS
    ]
    return pd.DataFrame(rows)


def changed(row: int, column: str, value: Any, table: pd.DataFrame | None = None) -> pd.DataFrame:
    table = (clean() if table is None else table).copy()
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table


def written(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "losses.csv", index=False)
    return folder / "losses.csv"


def test_a_clean_table_is_taken_as_it_is() -> None:
    read = read_losses(clean())
    assert read.warnings == []
    assert read.left_out.empty
    assert list(read.left_out.columns)[-2:] == ["where", "reason"]
    assert read.methods == ["random", "chosen"]
    pd.testing.assert_frame_equal(
        read.frame[["method", "tokens", "seed", "loss"]], clean(), check_dtype=False
    )
    assert (read.frame["budget"] == read.frame["tokens"]).all()


@pytest.mark.parametrize(
    ("row", "column", "value", "said"),
    [
        (3, "loss", "diverged", ["line 5", "random at 512,000 tokens", "`diverged` is not a loss"]),
        (3, "loss", np.inf, ["line 5", "`inf` is not a loss"]),
        (3, "loss", None, ["line 5", "run the cells again"]),
        (9, "loss", 0.0, ["line 11", "chosen at 128,000 tokens", "loss is 0"]),
        (9, "loss", -3.1, ["line 11", "loss is -3.1", "nats a token"]),
        (9, "tokens", -5, ["line 11", "tokens is -5"]),
        (9, "tokens", "many", ["line 11, chosen", "`many` is not a count"]),
        (9, "method", " ", ["line 11", "names no method"]),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_named(
    tmp_path: Path, row: int, column: str, value: Any, said: list[str]
) -> None:
    read = read_losses(written(changed(row, column, value), tmp_path))
    assert len(read.frame) == len(clean()) - 1
    (left,) = read.left_out.to_dict("records")
    assert left["where"] == f"line {row + 2}"
    assert left["reason"]
    assert all(part in read.warnings[0] for part in said), read.warnings[0]


def test_left_out_rows_stand_as_they_were_given(tmp_path: Path) -> None:
    read = read_losses(written(changed(3, "loss", "diverged"), tmp_path))
    assert read.left_out["loss"].tolist() == ["diverged"]


def test_blank_lines_count_as_lines_and_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("tokens,loss\n1000,3.5\n\n2000,nan\n4000,3.1\n")
    read = read_losses(path)
    assert read.left_out["where"].tolist() == ["line 4"]
    assert len(read.frame) == 2
    assert read.methods == ["all"]


def test_a_comma_at_the_end_of_each_row_shifts_nothing(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("tokens,loss\n1000,3.5,\n2000,3.4,\n")
    assert read_losses(tmp_path / "losses.csv").frame["tokens"].tolist() == [1000, 2000]


def test_rows_of_a_frame_are_named_by_its_index() -> None:
    table = changed(3, "loss", np.nan).set_index(pd.Index(range(100, 116)))
    assert read_losses(table).left_out["where"].tolist() == ["row 103"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64k", 64e3),
        ("1.5B", 1.5e9),
        ("1.1M", 1.1e6),
        (" 2 G", 2e9),
        ("3t", 3e12),
        ("64,000", 64e3),
        ("64_000", 64e3),
        ("1e6", 1e6),
        ("2.5e+3", 2500),
        ("+7", 7),
        (64000, 64e3),
        (2.5, 2.5),
        ("1.001k", 1001),
    ],
)
def test_counts_are_read_as_people_write_them(text: Any, count: float) -> None:
    assert count_of(text) == count


@pytest.mark.parametrize("text", ["", "k", "64q", "1.2.3", "64k tokens", None, float("nan")])
def test_what_is_no_count_is_nan(text: Any) -> None:
    assert np.isnan(count_of(text))


def test_a_table_with_counts_in_text_is_that_with_numbers(tmp_path: Path) -> None:
    text = clean().assign(
        tokens=lambda t: (t["tokens"] // 1000).astype(str) + "k", unique_tokens="0.032M"
    )
    read = read_losses(written(text, tmp_path))
    assert read.warnings == []
    assert read.frame["tokens"].tolist() == clean()["tokens"].tolist()
    assert (read.frame["unique_tokens"] == 32_000).all()


def test_more_unique_tokens_than_tokens_are_left_out() -> None:
    table = clean().assign(unique_tokens=lambda t: t["tokens"] // 2)
    table.loc[5, "unique_tokens"] = 200_000
    read = read_losses(table)
    assert read.left_out["where"].tolist() == ["row 5"]
    assert "200,000 unique tokens of 128,000" in read.warnings[0]
    assert "swapped" not in read.warnings[0]


def test_swapped_columns_are_recognised_and_the_exchange_works() -> None:
    table = clean().assign(unique_tokens=lambda t: t["tokens"] * 4)
    with pytest.raises(AnalysisError, match=r"look swapped.*tokens=unique_tokens,unique") as error:
        read_losses(table)
    assert "16 rows" in str(error.value)
    read = read_losses(table, {"tokens": "unique_tokens", "unique_tokens": "tokens"})
    assert read.warnings == []
    assert read.frame["tokens"].tolist() == table["unique_tokens"].tolist()


def test_identical_copies_count_once() -> None:
    table = clean()
    read = read_losses(pd.concat([table, table.iloc[[5]]], ignore_index=True))
    assert len(read.frame) == len(table)
    assert read.left_out["reason"].tolist() == ["the same as row 5"]
    assert "the first of each was kept" in read.warnings[0]


def test_of_contradictory_cells_none_is_used_and_both_values_are_said() -> None:
    table = clean()
    other = table.iloc[[5]].assign(loss=3.25)
    read = read_losses(pd.concat([table, other], ignore_index=True))
    assert len(read.frame) == len(table) - 1
    assert read.left_out["where"].tolist() == ["row 5", "row 16"]
    assert f"{table.loc[5, 'loss']:.6g} (row 5), 3.25 (row 16)" in read.warnings[0]
    assert "its own seed" in read.warnings[0]


def test_rows_without_a_seed_are_repeats() -> None:
    table = clean().drop(columns="seed")
    assert len(read_losses(table).frame) == len(table)
    unknown = clean().assign(seed=np.nan)
    assert len(read_losses(unknown).frame) == len(unknown)
    assert read_losses(unknown).warnings == []


@pytest.mark.parametrize("row", range(16))
def test_a_cell_that_diverged_is_left_out_unless_it_is_wanted(row: int) -> None:
    table = changed(row, "loss", 7.9)
    read = read_losses(table)
    assert read.left_out["where"].tolist() == [f"row {row}"]
    assert "the loss 7.9 is" in read.left_out["reason"].iloc[0]
    assert "keep_outliers=True" in read.warnings[0]
    assert len(read_losses(table, keep_outliers=True).frame) == len(table)


@pytest.mark.parametrize("row", range(4))
def test_a_single_seed_is_judged_by_its_neighbours(row: int) -> None:
    table = changed(row, "loss", 7.9, clean(seeds=1))
    assert read_losses(table).left_out["where"].tolist() == [f"row {row}"]


def test_a_seed_that_is_low_does_not_make_the_other_one_diverged() -> None:
    table = clean()
    table.loc[1, "loss"] *= 0.9
    assert read_losses(table).left_out.empty


def test_what_is_unknown_of_a_curve_does_not_hide_it() -> None:
    table = changed(6, "loss", 7.9).assign(model_size=np.nan)
    read = read_losses(pd.concat([table, table.iloc[[2]]]))
    assert read.left_out["loss"].tolist() == [7.9, table.loc[2, "loss"]]


def test_a_method_that_gets_worse_keeps_its_rows_and_is_warned_of() -> None:
    table = clean(seeds=1)
    table.loc[table["method"] == "chosen", "loss"] = [3.0, 4.0, 5.5, 8.0]
    read = read_losses(table)
    assert read.left_out.empty
    assert any("chosen: the loss at 512,000 tokens, 8, is above" in w for w in read.warnings)


def test_one_budget_is_warned_of() -> None:
    table = clean()
    table = table[(table["method"] == "random") | (table["tokens"] == 64_000)]
    assert any("chosen has one budget, 64,000" in line for line in read_losses(table).warnings)


def test_a_missing_seed_is_warned_of() -> None:
    (warning,) = read_losses(clean().drop(index=[10, 15])).warnings
    assert "chosen has none at 256,000 tokens, seed 0" in warning
    assert "chosen has none at 512,000 tokens, seed 1" in warning


def test_budgets_that_differ_slightly_are_one_level() -> None:
    table = clean()
    chosen = table["method"] == "chosen"
    table.loc[chosen, "tokens"] = [63_990, 127_990, 255_990, 511_990] * 2
    read = read_losses(table)
    assert read.warnings == []
    assert read.frame["budget"].tolist() == clean()["tokens"].tolist()
    assert set(read.frame["tokens"]) > set(read.frame["budget"])


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        (
            lambda nats: nats / np.log(2),
            "1.443 times those of random at every budget, the ratio of bits",
        ),
        (np.exp, "chosen has losses about 2"),
    ],
)
def test_losses_in_another_unit_are_warned_of_and_kept(unit: Any, said: str) -> None:
    table = clean()
    chosen = table["method"] == "chosen"
    # The unit alone, the same model: nothing else can explain the ratio.
    table.loc[chosen, "loss"] = unit(table.loc[~chosen, "loss"].to_numpy())
    read = read_losses(table)
    assert len(read.frame) == len(table)
    (warning,) = read.warnings
    assert said in warning


def test_small_perplexities_are_told_by_the_other_methods() -> None:
    table = clean().assign(loss=lambda t: t["loss"] - 1.5)
    chosen = table["method"] == "chosen"
    table.loc[chosen, "loss"] = np.exp(table.loc[chosen, "loss"])
    assert table["loss"].max() < 10
    assert any("exponentials of those of random" in line for line in read_losses(table).warnings)


def test_perplexities_throughout_are_told_by_their_size() -> None:
    warnings = read_losses(clean().assign(loss=lambda t: np.exp(t["loss"]))).warnings
    assert sum("are they perplexities" in line for line in warnings) == 2


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-9])
def test_budgets_in_another_unit_are_warned_of(factor: float) -> None:
    table = clean().astype({"tokens": float})
    table.loc[table["method"] == "chosen", "tokens"] *= factor
    said = " ".join(read_losses(table).warnings)
    assert f"{1 / factor:,.0f} times those of chosen" in said
    mixed = clean().astype({"tokens": float})
    mixed.loc[mixed["tokens"] == 64_000, "tokens"] *= factor
    said = " ".join(read_losses(mixed).warnings)
    assert "jumps from" in said
    assert "to 128,000 tokens" in said


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (pd.DataFrame({"tokens": [1]}), None, "no column `loss`; the table has tokens; map it"),
        (pd.DataFrame({"tokens": [1], "loss": [np.nan]}), None, "can be analysed: left out 1 row"),
        (pd.DataFrame({"tokens": [], "loss": []}), None, "it has no rows"),
        (clean(), {"loss": "nll"}, "`loss` is mapped to `nll`, which is not a column"),
        (clean(), {"token": "tokens"}, "no column `token` to map; known: method"),
        (
            pd.DataFrame([[1, 2, 3]], columns=["tokens", "loss", "loss"]),
            None,
            "two columns are call",
        ),
        (Path("nowhere.csv"), None, "no such file"),
    ],
)
def test_tables_that_are_none(table: Any, columns: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        read_losses(table, columns)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("tokens,loss\n1,2\n1,2,3,4\n")
    (tmp_path / "binary.csv").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "shifted.csv").write_text("tokens,loss\n0,1000,3.5\n1,2000,3.4\n")
    for name in ("empty.csv", "ragged.csv", "binary.csv", "shifted.csv"):
        with pytest.raises(AnalysisError, match=name):
            read_losses(tmp_path / name)


# --- random tables


def random_table(rng: np.random.Generator, seeds: int) -> pd.DataFrame:
    """Of a rectified or a power law with 0 to 0.5 % of noise, in shuffled rows."""
    budgets = np.geomspace(1e5, 1e5 * 10 ** rng.uniform(1, 3), rng.integers(4, 9)).round()
    noise, rows = rng.uniform(0, 0.005), []
    base, fall, rectified = rng.uniform(2, 3.5), rng.uniform(0.1, 2), rng.random() < 0.5
    for method in ("random", "low", "high")[: rng.integers(1, 4)]:
        floor = base * rng.uniform(0.95, 1.05)
        half, beta = 10 ** rng.uniform(5, 7), rng.uniform(0.2, 1)
        for tokens in budgets:
            if rectified:
                curve = fall / (1 + (tokens / half) ** beta)
            else:
                curve = fall * (tokens / 1e5) ** -beta
            for seed in range(seeds):
                loss = (floor + curve) * (1 + noise * rng.normal())
                rows.append({"method": method, "tokens": tokens, "seed": seed, "loss": loss})
    return pd.DataFrame(rows).sample(frac=1, random_state=int(rng.integers(1 << 30)))


def test_no_row_of_a_lawful_table_is_left_out() -> None:
    rng = np.random.default_rng(0)
    for trial in range(120):
        read = read_losses(random_table(rng, seeds=1 + trial % 4))
        assert read.left_out.empty, read.left_out
        assert not any("perplex" in w or "bits" in w or "jumps" in w for w in read.warnings)


def test_of_a_lawful_table_only_what_diverged_is_left_out() -> None:
    rng = np.random.default_rng(1)
    for trial in range(120):
        table = random_table(rng, seeds=2 + trial % 3)
        row = rng.choice(table.index)
        table.loc[row, "loss"] = table["loss"].max() * rng.uniform(1.2, 4)
        assert read_losses(table).left_out["where"].tolist() == [f"row {row}"]


def test_every_row_is_used_or_left_out_with_a_reason_in_any_order() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        table = random_table(rng, seeds=2).assign(unique_tokens=lambda t: t["tokens"])
        table = pd.concat([table, table.sample(2, random_state=1)]).reset_index(drop=True)
        for column, value in (
            ("loss", np.nan),
            ("loss", -1.0),
            ("tokens", 0.0),
            ("unique_tokens", 1e12),
            ("loss", 50.0),
        ):
            table.loc[rng.integers(len(table)), column] = value
        read = read_losses(table)
        assert len(read.frame) + len(read.left_out) == len(table)
        assert read.left_out["reason"].str.len().min() > 0
        assert (read.frame[["tokens", "loss", "budget"]] > 0).all(axis=None)
        assert (read.frame["budget"] / read.frame["tokens"] - 1).abs().max() <= 0.005
        again = read_losses(table.sample(frac=1, random_state=3))
        columns = ["method", "tokens", "seed", "loss"]
        pd.testing.assert_frame_equal(
            *(r.frame[columns].sort_values(columns).reset_index(drop=True) for r in (read, again))
        )


def test_real_models_of_three_corpora_are_read_whole() -> None:
    if not GADRE.exists():
        pytest.skip("the table of Gadre et al. 2024 is not here")
    columns = {"method": "train_data", "tokens": "D", "model_size": "N"}
    for loss in ("loss_c4_val", "loss_paloma_code100", "loss_paloma_ptb", "loss_c4_de_en"):
        read = read_losses(GADRE, columns | {"loss": loss})
        assert len(read.frame) == 104
        assert read.methods == ["c4_original", "rpj", "rw_original"]
        (warning,) = [w for w in read.warnings if "same cells" in w]
        assert "model size 1,439,795,200" in warning
