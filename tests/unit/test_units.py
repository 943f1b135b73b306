from __future__ import annotations

import pytest

from hpcscale.errors import ConfigError
from hpcscale.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_bytes,
    parse_count,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("250k", 250_000),
        ("1M", 10**6),
        ("2.5B", 2_500_000_000),
        ("1e6", 10**6),
        (1e6, 10**6),
        ("1_000", 1000),
        (17, 17),
        ("0.3M", 300_000),
        (" 4 k ", 4000),
        ("1T", 10**12),
    ],
)
def test_counts_are_read(text: object, count: int) -> None:
    assert parse_count(text) == count  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1x", "", "-5", "1.5", "k", True, "1e3.5", "1kk", "9e18k"])
def test_no_counts_are_refused_by_name(text: object) -> None:
    with pytest.raises(ConfigError, match=r"count|whole|range"):
        parse_count(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1234, 32_000, 250_000, 3_130_000, 10**9 + 1])
def test_a_formatted_count_reads_back(count: int) -> None:
    assert parse_count(format_count(count)) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("2h30m", 9000),
        ("1d", 86_400),
        ("1.5h", 5400),
        (1.5, 90),
        # Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S
        (30, 1800),
        ("30", 1800),
        ("45:00", 2700),
        ("1:5", 65),
        ("0:90", 90),
        ("01:00:00", 3600),
        ("25:00:00", 90_000),
        ("1-12", 129_600),
        ("1-0", 86_400),
        ("0-1", 3600),
        ("1-12:30", 131_400),
        ("1-12:00:00", 129_600),
        ("1-2:3:4", 93_784),
    ],
)
def test_durations_are_read_as_slurm_reads_them(text: object, seconds: int) -> None:
    assert parse_duration(text) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "0",
        "0-0",
        "-3",
        "3 parsecs",
        "1h and 2",
        "5:",
        ":30",
        "1-",
        "-1:00",
        "1-12:",
        "1:2:3:4",
        "1-2:3:4:5",
        "1-2-3",
        "1.5:30",
        "",
        None,
        True,
        float("nan"),
        float("inf"),
        "40000-0",
    ],
)
def test_no_durations_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="duration"):
        parse_duration(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["UNLIMITED", "INFINITE", "infinite", "-1"])
def test_no_time_limit_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ConfigError, match="a finite time is needed, since a job saves its state"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("16GiB", 16 * 2**30), ("500MB", 500_000_000), ("16G", 16 * 2**30), (3, 3)]
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_bytes(text) == size  # type: ignore[arg-type]


def test_what_is_shown_has_units() -> None:
    assert format_bytes(2**34) == "16.0 GiB"
    assert format_bytes(12) == "12 B"
    assert format_duration(3725) == "1h02m"
    assert format_duration(2.34) == "2.3s"
