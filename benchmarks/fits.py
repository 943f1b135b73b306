"""What fits and their bootstraps cost beside the usual loop over scipy, and beside other packages.

python benchmarks/fits.py [--rounds 5] [--sample 10] [--clock cpu|wall]
python benchmarks/fits.py --data svg_extracted_data.csv        Epoch's points, not synthetic ones
python benchmarks/fits.py --chinchilla PYTHON --simple PYTHON  interpreters that have the packages
python benchmarks/fits.py --quick                              a minute, to see that it runs

What is compared takes turns, and figures are medians over rounds. The loop that repeats its grid
for each of 1,000 draws is measured on a sample of draws, and scaled by their count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
from fits_others import CHINCHILLA, GRID, SIMPLE, WAYS, Array, UsualLoop, other

from scalinglaws import fit_law
from scalinglaws.bootstrap import DRAWS, Draws, pairs, wild
from scalinglaws.fitted import Fit
from scalinglaws.laws import Chinchilla, Points, Power, Rectified

#: As many starts as the loop has; ours are of the two shapes, the amplitudes follow.
STARTS = np.log(
    [[alpha, beta] for alpha in np.linspace(0.1, 2, 9) for beta in np.linspace(0.1, 2, 8)]
)


def sweep() -> dict[str, tuple[Array, Array]]:
    """Tokens and losses of 3 methods x 8 budgets x 3 seeds."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(np.geomspace(2e6, 2e8, 8), 3)
    return {
        f"method {place}": (
            tokens,
            3 - 0.02 * place + 1 / (1 + (tokens / 1e7) ** 0.6) + rng.normal(0, 0.003, len(tokens)),
        )
        for place in range(3)
    }


def epoch_like() -> tuple[Points, Array]:
    """240 losses on about the sizes and budgets of Hoffmann et al., with heavy tails."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(5e7), np.log(1.2e10), 240))
    tokens = size * np.exp(rng.uniform(np.log(2), np.log(300), 240))
    noise = 0.004 * rng.standard_t(3, 240)
    losses = (1.8172 + 482 * size**-0.3478 + 2085 * tokens**-0.3658) * np.exp(noise)
    return Points(tokens, size), losses


def epoch(path: Path) -> tuple[Points, Array]:
    table = pd.read_csv(path)
    table = table.nsmallest(len(table) - 5, "loss")
    size = table["Model Size"].to_numpy(float)
    return Points(table["Training FLOP"].to_numpy(float) / (6 * size), size), table[
        "loss"
    ].to_numpy()


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begun = clock()
    work()
    return clock() - begun


def turns(
    clock: Callable[[], float], rounds: int, work: dict[str, Callable[[], object]]
) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    taken = [{name: seconds(each, clock) for name, each in work.items()} for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in taken) for name in work}


def bootstrap_of_a_sweep(clock: Callable[[], float], rounds: int) -> None:
    for law in (Rectified(4.0), Power()):
        fits = {name: fit_law(law, *each, intervals=False) for name, each in sweep().items()}
        runs = {name: [str(place) for place in range(24)] for name in fits}
        taken = turns(clock, rounds, {"": lambda f=fits, r=runs: wild(f, r, DRAWS)})[""]
        print(f"{DRAWS} draws of 3 methods x 8 budgets x 3 seeds, {law.name}: {taken:.2f} s")


def usual_loop(
    clock: Callable[[], float], rounds: int, sample: int, at: Points, losses: Array
) -> None:
    loop, once = UsualLoop(at, losses), np.ones(len(at))

    def ours() -> Fit:
        return fit_law(Chinchilla(), at, losses, objective="huber", begin=STARTS, intervals=False)

    fit = ours()
    drawn, weights = pairs(fit), draws_of_pairs(len(at))[:sample]
    loops = {way: (lambda way=way: loop.fit(once, way)) for way in WAYS}
    taken = turns(clock, rounds, {"ours": ours, "pairs": lambda: pairs(fit), **loops})
    print(f"\nOne fit, {len(STARTS)} starts each, {len(at)} points: ours {taken['ours']:.3f} s")
    for way in WAYS:
        gap = loop.fit(once, way) / fit.objective - 1
        print(
            f"  {way}: {taken[way]:.2f} s, {taken[way] / taken['ours']:.1f}x; "
            f"its objective against ours {gap:+.1e}"
        )
    whole = taken["ours"] + taken["pairs"]
    print(f"Fit and {DRAWS} draws: ours {whole:.2f} s")
    at_ours = reached(loop, drawn, weights)
    best = np.full(len(weights), np.inf)
    for way in WAYS:
        begun = clock()
        found = np.array([loop.fit(each, way) for each in weights])
        a_draw = (clock() - begun) / len(weights)
        best = np.minimum(best, found)
        print(
            f"  {way}, grid for each draw: {a_draw:.2f} s a draw, {a_draw * DRAWS:.0f} s scaled "
            f"from {len(weights)}, {a_draw * DRAWS / whole:.0f}x"
        )
    gaps = at_ours / best - 1
    print(f"  our draws against the best of all: {gaps.min():+.1e} to {gaps.max():+.1e}")


def draws_of_pairs(points: int) -> Array:
    """How often `pairs` takes each point in each draw, with its default seed."""
    drawn = np.random.default_rng(0).multinomial(points, np.full(points, 1 / points), size=DRAWS)
    return np.asarray(drawn, float)


def reached(loop: UsualLoop, drawn: Draws, weights: Array) -> Array:
    """The loop's objective at our parameters of the first draws."""
    theta = np.concatenate([np.log(drawn.amplitudes), np.exp(drawn.logs)], axis=1)
    return np.array([loop.objective(at, each)[0] for at, each in zip(theta, weights, strict=False)])


def packages(
    asked: argparse.Namespace, clock: Callable[[], float], at: Points, losses: Array
) -> None:
    if asked.chinchilla:
        fit = fit_law(Chinchilla(), at, losses, objective="huber", begin=STARTS, intervals=False)
        loop, once = UsualLoop(at, losses), np.ones(len(at))
        found = other(asked.chinchilla, CHINCHILLA, np.stack([at.model_size, at.tokens, losses], 1))
        if found:
            theta = np.array([*np.log(found[1:4]), *found[4:]])
            gap = loop.objective(theta, once)[0] / fit.objective - 1
            print(
                f"\nPyPI chinchilla, {len(GRID)} starts, all cores: {found[0]:.2f} s, "
                f"objective ours {gap:+.1e}"
            )
    if asked.simple:
        tokens, each = sweep()["method 0"]
        found = other(asked.simple, SIMPLE, np.stack([tokens, each], axis=1))

        def ours() -> None:
            fit = fit_law(Power(), tokens, each)
            wild({"": fit}, {"": [str(place) for place in range(24)]}, DRAWS)

        if found:
            taken = turns(clock, asked.rounds, {"": ours})[""]
            print(
                f"PyPI simple-scaling-laws, 8 budgets x 3 seeds, power law, {DRAWS} draws: "
                f"{found[-1]:.2f} s, ours with profile intervals {taken:.2f} s, "
                f"{found[-1] / taken:.1f}x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=10, help="draws that the loop is measured on")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--chinchilla", type=Path, default=None, metavar="PYTHON")
    parser.add_argument("--simple", type=Path, default=None, metavar="PYTHON")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.sample = 1, 2
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    at, losses = epoch(asked.data) if asked.data else epoch_like()
    print(f"{asked.clock} clock, {asked.rounds} rounds\n")
    bootstrap_of_a_sweep(clock, asked.rounds)
    usual_loop(clock, asked.rounds, asked.sample, at, losses)
    packages(asked, clock, at, losses)


if __name__ == "__main__":
    main()
