"""The site profiles that the suite ships."""

from __future__ import annotations

import pytest

from hpcscale.config.profile import load_profile


@pytest.mark.parametrize("name", ["generic", "devcluster", "example-apptainer", "example-pyxis"])
def test_the_shipped_profiles_are_valid(name: str) -> None:
    assert load_profile(name).name == name
