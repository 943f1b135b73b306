"""A profile as shell lines."""

from __future__ import annotations

import subprocess

import pytest

from hpcscale.cluster.profile_shell import profile_shell
from sites import KINDS, profile


@pytest.mark.parametrize("kind", KINDS)
def test_the_shell_form_of_a_profile_is_bash(kind: str) -> None:
    script = (
        "module() { :; }\n"
        + profile_shell(profile(kind))
        + '\nprintf "%s|" "$X" "${HPCSCALE_SRUN_ARGS[@]}" "${HPCSCALE_COMMAND[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = done.stdout.split("|")
    assert words[:2] == ["a b", "--mpi=none"]
    assert ("hpcscale" if kind == "none" else "hpcscale.cli.main") in words
