"""A sweep small enough to run whole in a test: real files, real training, seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import SWEEP, hpcscale, texts

__all__ = ["hpcscale", "texts"]  # fixtures


@pytest.fixture
def sweep_file(tmp_path: Path, texts: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP.format(root=tmp_path / "runs", texts=texts))
    return path
