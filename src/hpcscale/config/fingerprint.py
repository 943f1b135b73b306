"""Fingerprints: what decides a result, as a short hexadecimal name."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON.

    Key order does not matter; 1 and 1.0 are different values.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
