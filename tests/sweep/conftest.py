"""A sweep small enough to run whole in a test: real files, real training, seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import hpcscale, texts, write_sweep

__all__ = ["hpcscale", "texts"]  # fixtures


@pytest.fixture
def sweep_file(tmp_path: Path, texts: Path) -> Path:
    return write_sweep(tmp_path, texts)
