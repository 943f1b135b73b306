"""The time limits of a sweep file are those that sbatch makes of the same text."""

from __future__ import annotations

import re
import subprocess

import pytest

from hpcscale.cluster.restart import time_minutes
from hpcscale.config.resources import Resources
from hpcscale.units import parse_duration

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_cluster")]

FORMS = (
    "30 010 1:30 0:90 1:5 90:00 1:2:3 25:00:00 1:90:90 1-12 1-0 0-1 0-25 1-12:30 1-00:90 "
    "1-12:00:00 1-2:3:4 366-0"
).split()
NO_LIMIT = ["UNLIMITED", "INFINITE", "infinite", "-1", "0"]
NO_TIME = ["5:", "1-12:", ":30", "1-2-3", "1:2:3:4", "1-2:3:4:5", "1-a", "INF"]


def limit(text: str) -> str | None:
    """``D-HH:MM:SS`` or UNLIMITED, as Slurm shows it; None where sbatch refuses the text."""
    words = ["sbatch", "--hold", "--parsable", "--output=/dev/null", f"--time={text}", "--wrap=:"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        return None
    job = done.stdout.strip()
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    subprocess.run(["scancel", job], check=True, timeout=30)
    match = re.search(r"TimeLimit=(\S+)", shown)
    assert match
    return match[1]


def minutes(shown: str) -> int:
    days, _, clock = shown.rpartition("-")
    hours, of_hour, seconds = map(int, clock.split(":"))
    assert seconds == 0, "Slurm counts a limit in minutes"
    return int(days or 0) * 1440 + hours * 60 + of_hour


@pytest.mark.parametrize("text", FORMS)
def test_a_form_of_slurm_means_the_same_in_a_sweep_file(text: str) -> None:
    shown = limit(text)
    assert shown is not None
    assert time_minutes(Resources(time=text)) == minutes(shown)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", NO_LIMIT)
def test_what_slurm_takes_for_no_limit_is_refused(text: str) -> None:
    assert limit(text) == "UNLIMITED"
    with pytest.raises(ValueError, match=r"finite time|above zero"):
        parse_duration(text)


@pytest.mark.parametrize("text", NO_TIME)
def test_what_slurm_refuses_is_refused(text: str) -> None:
    assert limit(text) is None
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
