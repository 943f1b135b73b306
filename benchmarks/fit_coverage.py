"""How often intervals hold the truth, and how near estimates come to it, on simulated sweeps.

python benchmarks/fit_coverage.py [--simulations 400] [--draws 400] [--jobs 2]
python benchmarks/fit_coverage.py --quick            under a minute, to see that it runs
python benchmarks/fit_coverage.py --write docs/analysis.md

Two methods are simulated on the same budgets and seeds: the reference by the law that is named,
the other with tokens worth 1.25 times as much. Their noise has a correlation of 0.5, that of
shared seeds. Fits, draws and clusters are those that the analysis uses. An interval of a parameter
holds the truth where its F statistic there is below the threshold; in one simulation of ten the
ends of the profile interval are found as well, and have to say the same. `--write` replaces the
text between the markers of the page.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from fit_coverage_table import Row, page
from scipy import stats

from scalinglaws import fit_law
from scalinglaws.bootstrap import Draws, band, quantiles, wild
from scalinglaws.diagnostics import residual_tests
from scalinglaws.estimation import with_intervals
from scalinglaws.fitted import Fit
from scalinglaws.laws import Floats, Law, Points, Power, Rectified, Transfer
from scalinglaws.minimise import minimise

SMALLEST = 2e6
#: What a token of the second method is worth.
WORTH = 1.25
#: Simulations of which one has its intervals found.
WHOLE = 10
#: Share of the noise's variance that both methods have in common.
SHARED = 0.5
BEGIN, END = "<!-- coverage:begin -->", "<!-- coverage:end -->"
#: Truths by law: those of a small model after continued pretraining on 2M tokens and more.
TRUTH: dict[str, dict[str, float]] = {
    "rectified": {"E": 3.0, "D0": 1e7, "beta": 0.6},
    "power": {"E": 3.1, "B": 0.45 * 1e6**0.3, "beta": 0.3},
    "transfer": {"E": 3.1, "B": 0.45 * 1e6**0.3, "Deff": 4e6, "beta": 0.3},
}
LAWS: dict[str, Law] = {"rectified": Rectified(4.0), "power": Power(), "transfer": Transfer()}


@dataclass(frozen=True)
class Scenario:
    """A design and its noise. spread: equal, unequal (2 sd at the smallest budget, half a sd at
    the largest) or budget (all seeds of a budget share a further deviation of 1 sd)."""

    law: str
    budgets: int = 5
    seeds: int = 3
    decades: float = 2.0
    noise: float = 0.003
    spread: str = "equal"

    @property
    def levels(self) -> Floats:
        return np.asarray(SMALLEST * np.geomspace(1, 10**self.decades, self.budgets))


SCENARIOS = (
    Scenario("rectified"),
    Scenario("rectified", noise=0.001),
    Scenario("rectified", noise=0.01),
    Scenario("rectified", decades=1),
    Scenario("rectified", decades=3),
    Scenario("rectified", budgets=6),
    Scenario("rectified", budgets=8),
    Scenario("rectified", budgets=8, seeds=1),
    Scenario("rectified", spread="unequal"),
    Scenario("rectified", spread="budget"),
    Scenario("rectified", budgets=8, spread="budget"),
    Scenario("power"),
    Scenario("power", noise=0.01),
    Scenario("power", budgets=8, decades=3),
    Scenario("power", budgets=8, seeds=1),
    Scenario("transfer", noise=0.001),
    Scenario("transfer", budgets=6),
    Scenario("transfer", budgets=8, decades=3),
)


def curve(law: str, tokens: Floats, worth: float = 1.0) -> Floats:
    """The true loss at ``tokens`` of data of which each token is worth ``worth``."""
    truth, effective = TRUTH[law], tokens * worth
    if law == "rectified":
        left = 1 + (effective / truth["D0"]) ** truth["beta"]
        return truth["E"] + (4.0 - truth["E"]) / left
    return truth["E"] + truth["B"] * (effective + truth.get("Deff", 0.0)) ** -truth["beta"]


def errors(made: Scenario, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The noise [n] of the two methods."""
    budget = np.repeat(np.arange(made.budgets), made.seeds)
    sd = made.noise * np.ones(len(budget))
    if made.spread == "unequal":
        sd = made.noise * np.geomspace(2, 0.5, made.budgets)[budget]

    def drawn() -> Floats:
        noise = sd * rng.normal(size=len(budget))
        if made.spread == "budget":
            noise = noise + made.noise * rng.normal(size=made.budgets)[budget]
        return noise

    common = np.sqrt(SHARED) * drawn()
    alone = np.sqrt(1 - SHARED)
    return common + alone * drawn(), common + alone * drawn()


def log2_multiplier(reference: Floats, other: Floats, grid: Floats, at: int) -> Floats:
    """Log2 of the reference's tokens for the other's loss at ``grid[at]``, over those tokens.

    Curves are [R, g]; infinite where the grid does not reach that far.
    """
    place = np.log2(grid / grid[at])
    pairs = zip(reference, other[:, at], strict=True)
    return np.array([np.interp(-loss, -fallen, place, -np.inf, np.inf) for fallen, loss in pairs])


def simulate(made: Scenario, number: int, draws: int) -> Row:
    """One simulated pair of methods: what was estimated, and which intervals hold the truth."""
    rng = np.random.default_rng(
        [
            number,
            *made.law.encode(),
            made.budgets,
            made.seeds,
            int(10 * made.decades),
            int(1e4 * made.noise),
            len(made.spread),
        ]
    )
    tokens, law = np.repeat(made.levels, made.seeds), LAWS[made.law]
    noise = errors(made, rng)
    truth = TRUTH[made.law]
    # Around the truth: whether a grid of starts finds the optimum is tested elsewhere.
    near = np.log([truth[shape.name] for shape in law.shapes(Points(tokens))])
    begin = near + np.array([[0.0], [1.0], [-1.0]])
    fit, other = (
        fit_law(law, tokens, curve(made.law, tokens, worth) + each, intervals=False, begin=begin)
        for worth, each in zip((1.0, WORTH), noise, strict=True)
    )
    flagged = any(residual_tests(each).get("lack_of_fit", 1.0) < 0.05 for each in (fit, other))
    runs = [f"{t:g}" if flagged else f"{t:g}/{i % made.seeds}" for i, t in enumerate(tokens)]
    drawn = wild({"one": fit, "two": other}, {"one": runs, "two": runs}, draws, number)
    held = {name: holds(fit, name, value) for name, value in truth.items()}
    whole = with_intervals(fit) if number % WHOLE == 0 else None
    same = whole is None or all(
        held[name] == (whole.intervals[name][0] <= value <= whole.intervals[name][1])
        for name, value in truth.items()
    )
    largest = tokens.max()
    for name, times in (("band", 1.0), ("band 4x", 4.0)):
        low, high = band(drawn["one"], Points(np.array([times * largest])))
        held[name] = bool(low[0] <= curve(made.law, np.array([times * largest]))[0] <= high[0])
    estimate, held["multiplier"] = multiplier(fit, other, drawn["one"], drawn["two"], largest)
    missed = {
        name: fit.estimates[name] - value
        if name in ("E", "beta")
        else float(np.log2(fit.estimates[name] / value))
        for name, value in truth.items()
    }
    missed["multiplier"] = estimate - np.log2(WORTH)
    return Row(held, missed, flagged, same, None if whole is None else whole.identified)


def holds(fit: Fit, name: str, value: float) -> bool:
    """Whether holding a parameter at ``value`` leaves the fit within the F threshold."""
    names = [shape.name for shape in fit.problem.free]
    keep = [place for place, each in enumerate(names) if each != name]
    problem = replace(fit.problem, held={name: value})
    around = fit.logs[keep] + np.array([[0.0], [1.0], [-1.0]])
    lowest = minimise(problem, np.clip(around, *problem.bounds)).objective.min()
    statistic = (lowest / fit.objective - 1) * fit.degrees
    return bool(statistic <= stats.f.ppf(0.95, 1, fit.degrees))


def multiplier(fit: Fit, other: Fit, one: Draws, two: Draws, tokens: float) -> tuple[float, bool]:
    """The estimated log2 multiplier at ``tokens`` and whether its interval holds the truth."""
    grid, middle = tokens * np.geomspace(1 / 32, 32, 161), 80
    estimate = log2_multiplier(fit.predict(grid)[None], other.predict(grid)[None], grid, middle)
    low, high = quantiles(log2_multiplier(one.predict(grid), two.predict(grid), grid, middle))
    return float(estimate[0]), bool(low <= np.log2(WORTH) <= high)


def several(made: Scenario, numbers: range, draws: int) -> list[Row]:
    return [simulate(made, number, draws) for number in numbers]


def measured(
    scenarios: Iterable[Scenario], simulations: int, draws: int, jobs: int
) -> Iterator[tuple[Scenario, list[Row]]]:
    """Each scenario with its simulations, in the order given."""
    scenarios = tuple(scenarios)
    chunks = [range(first, min(first + 20, simulations)) for first in range(0, simulations, 20)]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {
            made: [pool.submit(several, made, chunk, draws) for chunk in chunks]
            for made in scenarios
        }
        for place, (made, parts) in enumerate(waiting.items(), 1):
            for _ in as_completed(parts):
                pass
            print(f"{place} of {len(scenarios)}: {made}", file=sys.stderr, flush=True)
            yield made, [row for part in parts for row in part.result()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path, default=None, metavar="PAGE")
    asked = parser.parse_args()
    chosen, simulations = SCENARIOS, asked.simulations
    if asked.quick:
        chosen, simulations = (SCENARIOS[0], SCENARIOS[9], SCENARIOS[11], SCENARIOS[-3]), 40
    if asked.write and not re.search(f"{BEGIN}.*{END}", asked.write.read_text(), re.DOTALL):
        parser.error(f"{asked.write} has no text between {BEGIN} and {END}")
    text = page(measured(chosen, simulations, asked.draws, asked.jobs), simulations, asked.draws)
    print(text)
    if asked.write:
        before, _, rest = asked.write.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        asked.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
