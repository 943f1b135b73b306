"""Differences, rankings, domains, and the comparison as a whole."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scalinglaws import AnalysisError
from scalinglaws.compare import Comparison, compare
from scalinglaws.compare.differences import contrasts, differences
from scalinglaws.compare.domains import domains, frontier
from scalinglaws.compare.ranking import ranking
from scalinglaws.read import read_losses
from scalinglaws.study import study


def table(
    floors: dict[str, float], budgets: int = 5, seeds: int = 3, noise: float = 0.003, rng: int = 0
) -> pd.DataFrame:
    draw = np.random.default_rng(rng)
    rows = [
        (method, budget, seed, floor + 0.5 * (budget / 1e6) ** -0.3 + draw.normal(0, noise))
        for method, floor in floors.items()
        for budget in np.geomspace(2e6, 2e8, budgets).round()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["method", "tokens", "seed", "loss"])


def differ(frame: pd.DataFrame, reference: str = "random") -> pd.DataFrame:
    return differences(contrasts(read_losses(frame).frame, reference), reference)


def losses_of(frame: pd.DataFrame, method: str) -> np.ndarray:  # type: ignore[type-arg]
    return frame.loc[frame["method"] == method, "loss"].to_numpy(float)


def test_pairs_at_one_budget_are_the_paired_t_test() -> None:
    frame = table({"random": 3.0, "a": 3.01}, budgets=1, seeds=5)
    row = differ(frame).iloc[0]
    theirs = stats.ttest_rel(losses_of(frame, "a"), losses_of(frame, "random"))
    interval = theirs.confidence_interval(0.95)
    assert row["p"] == pytest.approx(theirs.pvalue)
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(list(interval))
    assert row["pairs"] == 5
    assert row["paired"]


def test_runs_without_common_seeds_are_welchs_t_test() -> None:
    frame = table({"random": 3.0, "a": 3.01}, budgets=1, seeds=5)
    frame.loc[frame["method"] == "a", "seed"] += 10
    frame = frame.iloc[:-1]
    row = differ(frame).iloc[0]
    theirs = stats.ttest_ind(losses_of(frame, "a"), losses_of(frame, "random"), equal_var=False)
    assert row["p"] == pytest.approx(theirs.pvalue)
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(list(theirs.confidence_interval(0.95)))
    assert not row["paired"]


def test_the_pooled_variance_is_that_of_a_regression_on_budgets() -> None:
    frame = table({"random": 3.0, "a": 3.01})
    found = differ(frame)
    apart = losses_of(frame, "a") - losses_of(frame, "random")
    design = np.kron(np.eye(5), np.ones((3, 1)))
    means, squares, *_ = np.linalg.lstsq(design, apart, rcond=None)
    error = np.sqrt(squares[0] / 10 / 3)
    assert found["difference"].to_numpy() == pytest.approx(means)
    half = stats.t.ppf(0.975, 10) * error
    assert found["ci_high"].to_numpy() == pytest.approx(means + half)


def test_budgets_of_unlike_variance_are_not_pooled() -> None:
    frame = table({"random": 3.0, "a": 3.01}, seeds=6)
    loud = frame["tokens"] == frame["tokens"].min()
    frame.loc[loud, "loss"] += np.random.default_rng(1).normal(0, 0.3, int(loud.sum()))
    found = differ(frame)
    quiet = frame[~loud & (frame["tokens"] == frame["tokens"].max())]
    theirs = stats.ttest_rel(losses_of(quiet, "a"), losses_of(quiet, "random"))
    assert found["p"].iloc[-1] == pytest.approx(theirs.pvalue)


def test_one_seed_leaves_differences_without_interval() -> None:
    found = differ(table({"random": 3.0, "a": 3.01}, seeds=1))
    assert found["difference"].notna().all()
    assert found[["ci_low", "ci_high", "p", "p_holm"]].isna().all(axis=None)


def test_budgets_that_only_one_method_has_are_not_compared() -> None:
    frame = table({"random": 3.0, "a": 3.01})
    least = frame["tokens"].min()
    frame = frame[(frame["method"] == "random") | (frame["tokens"] > least)]
    assert len(differ(frame)) == 4


def test_identical_methods_do_not_differ() -> None:
    frame = table({"random": 3.0})
    found = differ(pd.concat([frame, frame.assign(method="copy")]))
    assert (found["difference"] == 0).all()
    assert (found["p_holm"] == 1).all()


def test_ranking_counts_pairs_in_the_order_of_the_largest_budget() -> None:
    frame = table({"a": 3.0, "b": 3.1, "c": 3.2, "tied": 3.1}, noise=1e-4)
    least = frame["tokens"].min()
    swapped = (frame["tokens"] == least) & (frame["method"] == "a")
    frame.loc[swapped, "loss"] += 0.15
    found = ranking(read_losses(frame).frame)
    assert list(found["pairs"]) == [5] * 4
    assert list(found["agreeing"]) == [3, 5, 5, 5]
    assert found["accuracy"].iloc[0] == pytest.approx(0.6)
    assert (found["ci_low"] <= found["accuracy"]).all()


def test_an_order_within_the_noise_does_not_count() -> None:
    found = ranking(read_losses(table({"a": 3.0, "b": 3.0001, "c": 3.2}, noise=0.01)).frame)
    assert list(found["pairs"]) == [2] * 4


def by_domain() -> pd.DataFrame:
    parts = [
        table({"random": 3.0, "a": floor}, budgets=2, rng=rng).assign(domain=name, base_loss=3.5)
        for name, floor, rng in (("code", 2.9, 1), ("prose", 3.1, 2))
    ]
    return pd.concat(parts, ignore_index=True)


def test_domains_are_set_against_the_base_model_and_the_reference() -> None:
    frame = by_domain()
    found = domains(frame, "random").set_index(["method", "domain", "budget"]).sort_index()
    row = found.loc[("a", "code", 2e8)]
    cell = frame[(frame["domain"] == "code") & (frame["tokens"] == 2e8)]
    assert row["loss"] == pytest.approx(losses_of(cell, "a").mean())
    assert row["change"] == pytest.approx(losses_of(cell, "a").mean() - 3.5)
    apart = losses_of(cell, "a") - losses_of(cell, "random")
    assert row["difference"] == pytest.approx(apart.mean())
    assert row["ci_low"] < -0.1 < row["ci_high"]
    assert found.xs("random")["difference"].isna().all()


def test_the_frontier_sets_the_target_against_what_is_forgotten() -> None:
    changes = domains(by_domain(), "random")
    found = frontier(changes, ["code"]).set_index(["method", "budget"])
    assert found.loc[("a", 2e8), "target"] < found.loc[("random", 2e8), "target"]
    assert found.loc[("a", 2e8), "forgetting"] > found.loc[("random", 2e8), "forgetting"]
    with pytest.raises(AnalysisError, match="code, prose"):
        frontier(changes, ["poetry"])


def compared(frame: pd.DataFrame, **options: object) -> Comparison:
    return compare(study(read_losses(frame), ["power"]), **options)  # type: ignore[arg-type]


def test_a_comparison_has_every_table_in_the_order_of_methods() -> None:
    found = compared(table({"a": 3.02, "random": 3.0, "b": 3.0}), domains=by_domain())
    assert found.reference == "random"
    assert list(dict.fromkeys(found.differences["method"])) == ["a", "b"]
    assert list(found.constant["method"]) == ["a", "b"]
    assert len(found.crossovers) >= 3
    assert len(found.nested) == 16
    for name in ("multipliers", "iso_loss", "ranking", "domains", "steps", "permutation"):
        assert len(getattr(found, name))
    worse = found.differences[found.differences["method"] == "a"]
    assert (worse["p_holm"] < 0.05).all()
    assert any("pooled over budgets" in note for note in found.notes)


def test_one_method_is_no_comparison_and_says_so() -> None:
    found = compared(table({"only": 3.0}))
    assert found.differences.empty
    assert found.nested.empty
    assert "verdict" in found.crossovers
    assert found.notes == ("There is one method, only: nothing to compare it with.",)


def test_a_method_without_a_curve_is_compared_at_its_budgets() -> None:
    frame = table({"random": 3.0, "a": 3.0, "short": 3.1})
    few = np.unique(frame["tokens"])[:2]
    frame = frame[(frame["method"] != "short") | frame["tokens"].isin(few)]
    found = compared(frame)
    assert "short" in set(found.differences["method"])
    assert set(found.multipliers["method"]) == {"a"}
    assert any("Without a fitted curve, short can" in note for note in found.notes)


def test_a_reference_without_a_curve_leaves_the_crossovers_of_the_others() -> None:
    frame = table({"random": 3.0, "a": 3.0, "b": 3.1})
    few = np.unique(frame["tokens"])[:2]
    found = compared(frame[(frame["method"] != "random") | frame["tokens"].isin(few)])
    assert found.multipliers.empty
    assert len(found.crossovers)
    assert any("no multipliers" in note for note in found.notes)


def test_no_curves_at_all_leave_the_differences() -> None:
    found = compared(table({"random": 3.0, "a": 3.1}, budgets=2))
    assert len(found.differences) == 2
    assert found.multipliers.empty
    assert any("No method has a fitted curve" in note for note in found.notes)


def test_one_seed_a_budget_is_compared_by_curves_alone() -> None:
    found = compared(table({"random": 3.0, "a": 3.05}, seeds=1, budgets=8))
    assert any("does not measure noise" in note for note in found.notes)
    assert found.multipliers["ci_low"].notna().all()
    assert found.ranking["ci_low"].isna().all()


def test_a_design_that_can_show_nothing_says_so() -> None:
    found = compared(table({"random": 3.0, "a": 3.05}, seeds=1, budgets=4))
    assert found.permutation["least_p"].min() == 0.125
    assert any("cannot show anything" in note for note in found.notes)


def test_a_budget_without_common_seeds_is_compared_by_all_of_its_runs() -> None:
    frame = table({"random": 3.0, "a": 3.01})
    frame.loc[(frame["method"] == "a") & (frame["tokens"] > 1e7), "seed"] += 10
    found = compared(frame)
    assert list(found.differences["paired"]) == [True, True, False, False, False]
    assert found.permutation["arrangements"].iloc[0] == 2 ** (2 * 3) * 20**3


def test_runs_without_a_seed_are_compared_all_the_same() -> None:
    frame = table({"random": 3.0, "a": 3.02})
    frame["seed"] = frame["seed"].where(frame["seed"] > 0)
    found = compared(frame)
    assert list(found.differences["pairs"]) == [2] * 5
    assert found.multipliers["ci_high"].notna().all()


def test_runs_that_do_not_differ_measure_no_noise() -> None:
    found = compared(table({"random": 3.0, "a": 3.02}, noise=0))
    assert found.differences["difference"].to_numpy() == pytest.approx(0.02)
    assert found.differences["p"].isna().all()


def test_curves_through_all_points_leave_it_open_how_sure_they_are() -> None:
    found = compared(table({"random": 3.0, "a": 3.05}, seeds=1, budgets=3))
    assert found.multipliers["ci_low"].isna().all()
    assert np.isnan(found.crossovers["share"].iloc[0])
    assert "cannot tell" in found.crossovers["verdict"].iloc[0]


def test_methods_without_a_common_budget_are_compared_by_curves_alone() -> None:
    frame = table({"random": 3.0, "a": 3.0})
    frame.loc[frame["method"] == "a", "tokens"] *= 1000
    found = compared(frame)
    assert found.differences.empty
    assert len(found.multipliers)
    assert any("no budget in common" in note for note in found.notes)
    assert "share no range" in found.crossovers["verdict"].iloc[0]


def test_an_unknown_reference_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AnalysisError, match="no method `rnadom` to compare with; known: random, a"):
        compared(table({"random": 3.0, "a": 3.1}), reference="rnadom")


def test_a_comparison_is_quick() -> None:
    """3 methods, 8 budgets, 3 seeds, 1000 draws; a second on a free core, with room for others."""
    frame = table({"random": 3.0, "a": 3.01, "b": 3.02}, budgets=8)
    begun = time.process_time()
    compared(frame)
    assert time.process_time() - begun < 4
