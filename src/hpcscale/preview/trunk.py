"""Whether the budgets of a sweep can share trunks, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator

from hpcscale.config.sweep import SweepConfig
from hpcscale.config.yaml_lines import Location
from hpcscale.selection.registry import load_method
from hpcscale.units import format_count, format_rate


def trunk_problems(config: SweepConfig) -> Iterator[tuple[Location, str]]:
    """Why budgets cannot share a trunk, with the place in the sweep file; empty where they can."""
    if config.train.schedule != "wsd-branch":
        return
    way_out = "or write `train.schedule: wsd`, which trains each budget separately"
    smallest = min(config.budgets)
    warmup, decay = config.train.warmup_tokens(smallest), config.train.decay_start(smallest)
    if warmup > decay:
        yield (
            ("train", "warmup"),
            (
                f"a warm-up of {format_count(warmup)} tokens is not over at {format_count(decay)}, "
                f"where budget {format_count(smallest)} begins to decay; shorten the warm-up, "
                f"raise the budget, {way_out}"
            ),
        )
    for index, method in enumerate(config.selection):
        if reason := load_method(method).nesting_problem():
            yield (
                ("selection", index),
                (
                    f"`schedule: wsd-branch` needs budgets that continue where smaller ones stop, "
                    f"which selection `{method.name}` does not do: {reason}; {way_out}"
                ),
            )


def trunk_lines(config: SweepConfig) -> list[str]:
    """The branch points, and the tokens trained, compared with a separate run for each budget;
    empty without trunks."""
    if config.train.schedule != "wsd-branch":
        return []
    budgets = sorted(config.budgets)
    points = {budget: config.train.decay_start(budget) for budget in budgets}
    tokens = max(points.values()) + sum(budget - point for budget, point in points.items())
    branches = ", ".join(f"{format_count(b)} from {format_rate(p)}" for b, p in points.items())
    return [
        f"one trunk a method and seed: branches {branches}; {format_rate(tokens)} tokens "
        f"trained, {tokens / budgets[-1]:.2f}x the largest budget (separate runs: "
        f"{sum(budgets) / budgets[-1]:.2f}x)"
    ]
