"""Quantities as people write them: ``250k`` tokens, ``2h30m``, ``16GiB``."""

from __future__ import annotations

import re

from hpcscale.errors import ConfigError

_COUNT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?)\s*([kKmMbBgGtT]?)\s*")
_COUNT_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_BYTES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([dhms])")
_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)")
_NO_LIMIT = ("unlimited", "infinite", "-1")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_count(value: int | float | str) -> int:
    """``"250k"``, ``"1M"``, ``"2.5B"``, ``1e6`` or an integer, as a whole number of tokens.

    Raises ConfigError if the value is not a count, is negative, or is not whole.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a count; write a number such as 250k, 1M or 1000000")
    scale = 1
    text = str(value)
    if isinstance(value, str):
        match = _COUNT.fullmatch(value)
        if not match:
            raise ConfigError(
                f"{value!r} is not a count; write a number such as 250k, 1M, 2.5B or 1000000"
            )
        text, scale = match[1].replace("_", ""), _COUNT_SCALE[match[2].lower()]
    # The float of a short decimal times a power of ten can miss the integer by an ulp.
    number = float(text) * scale
    if not 0 <= number < 2**63:
        raise ConfigError(f"{value!r} is out of range; a count lies between 0 and 2^63")
    whole = round(number)
    if abs(number - whole) > 1e-6 * max(1.0, number):
        raise ConfigError(f"{value!r} is not a whole number")
    return int(text) * scale if text.isdigit() else whole


def format_count(count: int) -> str:
    """The shortest exact form that ``parse_count`` reads back: ``250k``, ``1M``, ``1234``."""
    for suffix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale:
            text = f"{count / scale:.3f}".rstrip("0").rstrip(".")
            if round(float(text) * scale) == count:
                return text + suffix
    return str(count)


def format_rate(count: float) -> str:
    """The count rounded to three digits: ``16.5k``."""
    for suffix, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{suffix}"
    return f"{count:.3g}"


def parse_duration(value: int | float | str) -> int:
    """Seconds of ``"90s"``, ``"2h30m"``, or any of Slurm's forms; a bare number means minutes.

    Slurm's: M, M:S, H:M:S, D-H, D-H:M and D-H:M:S. Raises ConfigError, also for Slurm's words for
    no limit.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, value * 60)
    text = str(value).strip().lower()
    if text in _NO_LIMIT:
        raise ConfigError(
            f"{value!r} is not a duration: a finite time is needed, since a job saves its state "
            "before its time is over; write the longest that the partition allows, such as 2-00"
        )
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return _finite(value, float(text) * 60)
    days, clock = _DAYS.fullmatch(text), _CLOCK.fullmatch(text)
    if match := days or clock:
        numbers = [int(part or 0) for part in match.groups()]
        scale = (86400, 3600, 60, 1) if days else (3600, 60, 1)
        return _finite(value, sum(n * unit for n, unit in zip(numbers, scale, strict=True)))
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise ConfigError(
            f"{value!r} is not a duration; write 90s, 30m, 2h30m, or as in Slurm 30 (minutes), "
            "2:30:00, 1-12 or 1-12:00:00"
        )
    return _finite(value, sum(float(n) * _SECONDS[unit] for n, unit in parts))


def _finite(value: object, seconds: float) -> int:
    if not seconds < 2**31:
        raise ConfigError(f"{value!r} is a duration of more than 68 years, the limit of Slurm")
    if round(seconds) <= 0:
        raise ConfigError(f"{value!r} is not a duration above zero")
    return round(seconds)


def format_duration(seconds: float) -> str:
    """``3725`` seconds as ``1h02m``; two leading parts at most."""
    whole = round(seconds)
    for unit, below, name, minor in (
        (86400, 3600, "d", "h"),
        (3600, 60, "h", "m"),
        (60, 1, "m", "s"),
    ):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // below:02d}{minor}"
    return f"{whole}s" if seconds >= 10 else f"{seconds:.1f}s"


def parse_bytes(value: int | str) -> int:
    """Bytes of ``"16GiB"``, ``"500MB"`` or a plain number; ``G`` alone is 2^30, as in Slurm."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _BYTES.fullmatch(str(value))
    if not match:
        raise ConfigError(f"{value!r} is not a size; write 500MB, 16GiB or 16G")
    decimal = str(value).strip().lower().endswith("b") and not match[3] and match[2]
    base = 1000 if decimal else 1024
    return round(float(match[1]) * float(base ** _POWER[match[2].lower()]))


def format_bytes(count: float) -> str:
    """``16.0 GiB``, ``512 B``."""
    for suffix in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or suffix == "TiB":
            return f"{count:.0f} B" if suffix == "B" else f"{count:.1f} {suffix}"
        count /= 1024
    raise AssertionError("unreachable")
