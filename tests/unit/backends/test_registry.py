"""Which back end is used, and what is known of jobs of one that is not here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from hpcscale.backends import registry
from hpcscale.backends.debug import Debug
from hpcscale.backends.local import Local
from hpcscale.backends.registry import backend, choose, endings, liveness, names
from hpcscale.backends.slurm import Slurm
from hpcscale.errors import ClusterError, ConfigError
from hpcscale.rundir.state import Job, Liveness


class Other(Local):
    """A back end of another package, which suits this machine best."""

    name = "other"

    def affinity(self) -> int:
        return 9

    def problem(self) -> str | None:
        return "it is closed on Sundays"

    def alive(self, jobs: Sequence[str]) -> dict[str, Liveness]:
        return {job: "running" for job in jobs if job == "1"}

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        return {job: "OUT_OF_MEMORY" for job in jobs if job == "2"}


class Failing(Local):
    """A back end whose own settings are wrong."""

    def __init__(self) -> None:
        raise ValueError("QUEUE_URL is not set")


POINTS = {
    "broken": "nowhere_at_all:Queue",
    "number": "math:factorial",
    "text": "builtins:str",
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The entry points that a test puts here by name."""
    here: list[str] = []

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == "hpcscale.backends"
        return [_Point(n) for n in here if name in (None, n)]  # type: ignore[misc]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    backend.cache_clear()
    yield here
    backend.cache_clear()


class _Point:
    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> Any:
        if self.name == "other":
            return Other
        if self.name == "value":
            return Failing
        return EntryPoint(self.name, POINTS[self.name], "hpcscale.backends").load()


def without_slurm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hpcscale.cluster.liveness.slurm_available", lambda: False)


def test_names_are_those_of_the_suite_and_of_packages(installed: list[str]) -> None:
    assert names() == ["slurm", "local", "debug"]
    installed.append("other")
    assert names() == ["slurm", "local", "debug", "other"]
    assert [type(backend(name)) for name in names()] == [Slurm, Local, Debug, Other]


def test_an_unknown_name_says_what_was_meant_and_what_there_is(installed: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        choose("slrum")
    message = str(caught.value)
    assert "--executor slrum: there is no such back end; did you mean `slurm`?" in message
    assert "installed: auto, slurm, local, debug" in message
    with pytest.raises(ConfigError) as caught:
        choose("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "the back end does not load: ModuleNotFoundError"),
        ("number", "the back end does not load: TypeError"),
        ("text", "str is not a Backend"),
        ("value", "the back end does not load: ValueError"),
    ],
)
def test_a_back_end_that_is_none_is_refused(installed: list[str], name: str, said: str) -> None:
    installed.append(name)
    with pytest.raises(ConfigError, match=f"--executor {name}: {said}"):
        backend(name)


def test_auto_is_the_one_that_suits_this_machine_best(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_slurm(monkeypatch)
    assert isinstance(choose("auto"), Local)
    monkeypatch.setattr("hpcscale.cluster.liveness.slurm_available", lambda: True)
    assert isinstance(choose("auto"), Slurm)
    installed.append("other")
    assert isinstance(choose("auto"), Other)


def test_a_dry_run_needs_no_scheduler_that_answers(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_slurm(monkeypatch)
    assert isinstance(choose("auto", dry_run=True), Slurm)
    assert isinstance(choose("slurm", dry_run=True), Slurm)
    with pytest.raises(ClusterError, match="--executor slurm: no Slurm answers here"):
        choose("slurm")
    installed.append("other")
    with pytest.raises(ClusterError, match="--executor other: it is closed on Sundays"):
        choose("other")


def test_jobs_of_a_back_end_that_is_not_installed_are_unknown(installed: list[str]) -> None:
    jobs = [Job("other", "1"), Job("other", "2")]
    assert liveness(jobs) == dict.fromkeys(jobs, "unknown")
    assert endings(jobs) == {}
    backend.cache_clear()
    installed.append("other")
    assert liveness(jobs) == {jobs[0]: "running", jobs[1]: "gone"}
    assert endings(jobs) == {jobs[1]: "OUT_OF_MEMORY"}


def test_each_back_end_answers_for_its_own_jobs(installed: list[str]) -> None:
    installed.append("other")
    jobs = [Job("other", "1"), Job("elsewhere", "1"), Job("local", "1")]
    assert liveness(jobs) == {jobs[0]: "running", jobs[1]: "unknown", jobs[2]: "gone"}
