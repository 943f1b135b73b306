"""The tables that fit_coverage.py writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: The parameter that places the curve along the tokens, by law.
SCALE = {"rectified": "D0", "power": "B", "transfer": "Deff"}
LOW, HIGH = 0.93, 0.97


@dataclass(frozen=True)
class Row:
    """One simulation. held: by parameter or quantity, whether the interval holds the truth.

    missed: estimate - truth, for B, D0, Deff and the multiplier in log2. flagged: a lack of fit
    was found. same: the ends of intervals agree with ``held``. identified: the ends are finite,
    None where they were not looked for.
    """

    held: dict[str, bool]
    missed: dict[str, float]
    flagged: bool
    same: bool
    identified: bool | None


def page(found: Iterable[tuple[Any, list[Row]]], simulations: int, draws: int) -> str:
    """Both tables with what has to be known to read them, as markdown."""
    coverage, recovery, outside, differing = [], [], [], 0
    for made, rows in found:
        differing += sum(not row.same for row in rows)
        coverage.append(_coverage(made, rows))
        recovery.append(_recovery(made, rows))
        outside += _outside(made, rows)
    error = 100 * np.sqrt(0.95 * 0.05 / simulations)
    told = ["Outside 93-97 %: " + "; ".join(outside) + "."] if outside else ["All are in 93-97 %."]
    columns = "law,design,decades,noise,spread"
    covered = f"{columns},E,scale,B,beta,band,band 4x,multiplier".split(",")
    recovered = f"{columns},E (nats),log2 scale,beta,log2 multiplier,identified,lack of fit flagged"
    lines = [
        f"Simulated sweeps, {simulations} a row, {draws} bootstrap draws each, by "
        "`python benchmarks/fit_coverage.py --write docs/analysis.md`. Two methods share budgets "
        "and seeds; a token of the second is worth 1.25 of the first. Budgets start at 2M tokens. "
        "Spread: `unequal` falls from twice to half the stated noise along the budgets; `budget` "
        "adds a deviation of the same size that all seeds of a budget share.",
        "",
        "Coverage of nominal 95 % intervals in percent: profile intervals of the reference's "
        "parameters, its bootstrap band at the largest budget and at four times that, and the "
        f"paired interval of the multiplier at the largest budget. Simulation error: {error:.1f}.",
        "",
        *_table(covered, coverage),
        "",
        *told,
        "",
        "Recovery: bias / root mean square error of the reference's parameters and of log2 of the "
        "multiplier. Scale is D0, B or Deff, the parameter that places the curve along the tokens, "
        "in log2. The last two columns are percentages: of simulations whose intervals were found "
        f"in full (one of ten; {differing} of them disagree with the F statistic at the truth), "
        "and of all.",
        "",
        *_table(recovered.split(","), recovery),
    ]
    return "\n".join(lines)


def _labels(made: Any) -> list[str]:
    return [
        made.law,
        f"{made.budgets} x {made.seeds}",
        f"{made.decades:g}",
        f"{made.noise:g}",
        made.spread,
    ]


def _shares(made: Any, rows: Sequence[Row]) -> dict[str, float]:
    return {name: float(np.mean([row.held[name] for row in rows])) for name in rows[0].held}


def _coverage(made: Any, rows: Sequence[Row]) -> list[str]:
    share = {name: f"{100 * value:.1f}" for name, value in _shares(made, rows).items()}
    amplitude = share["B"] if made.law == "transfer" else ""
    return [
        *_labels(made),
        share["E"],
        share[SCALE[made.law]],
        amplitude,
        share["beta"],
        share["band"],
        share["band 4x"],
        share["multiplier"],
    ]


def _recovery(made: Any, rows: Sequence[Row]) -> list[str]:
    cells = []
    for name in ("E", SCALE[made.law], "beta", "multiplier"):
        missed = np.array([row.missed[name] for row in rows])
        missed = missed[np.isfinite(missed)]
        cells.append(f"{missed.mean():+.4f} / {np.sqrt((missed**2).mean()):.4f}")
    found = [row.identified for row in rows if row.identified is not None]
    shares = [100 * np.mean(each) for each in (found, [row.flagged for row in rows])]
    return [*_labels(made), *cells, *(f"{share:.0f}" for share in shares)]


def _outside(made: Any, rows: Sequence[Row]) -> list[str]:
    law, design, decades, noise, spread = _labels(made)
    parts = [
        f"{name} {100 * share:.1f}"
        for name, share in _shares(made, rows).items()
        if not LOW <= share <= HIGH
    ]
    if not parts:
        return []
    return [f"{law} {design}, {decades} decades, {noise}, {spread}: {', '.join(parts)}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
