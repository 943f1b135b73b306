"""Which back ends are installed, and which one is used."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from hpcscale.backends.base import Backend
from hpcscale.errors import ClusterError, ConfigError
from hpcscale.rundir.state import Job, Liveness

GROUP = "hpcscale.backends"
_BUILT_IN = {
    "slurm": "hpcscale.backends.slurm:Slurm",
    "local": "hpcscale.backends.local:Local",
    "debug": "hpcscale.backends.debug:Debug",
}


def names() -> list[str]:
    """The back ends that ``--executor`` may name."""
    return [*_BUILT_IN, *sorted(point.name for point in entry_points(group=GROUP))]


@cache
def backend(name: str) -> Backend:
    """Raises ConfigError for a back end that is not installed or does not load."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ConfigError(
            f"--executor {name}: there is no such back end; {hint}installed: auto, "
            f"{', '.join(names())}"
        )
    try:
        made = _point(name).load()()
    except Exception as error:
        raise ConfigError(f"--executor {name}: the back end does not load: {error!r}") from error
    if not isinstance(made, Backend):
        raise ConfigError(f"--executor {name}: {type(made).__name__} is not a Backend")
    return made


def _point(name: str) -> EntryPoint:
    """The first of a name; the suite's own come before those of other packages."""
    if name in _BUILT_IN:
        return EntryPoint(name, _BUILT_IN[name], GROUP)
    return next(iter(entry_points(group=GROUP, name=name)))


def choose(name: str, dry_run: bool = False) -> Backend:
    """The back end of ``--executor``; ``auto`` is the one with the highest affinity.

    With ``auto``, a dry run is planned for Slurm even where no Slurm answers. Raises ClusterError
    where the named back end cannot be used here.
    """
    if name == "auto":
        if dry_run:
            return backend("slurm")
        found = [(one.affinity(), one) for one in map(backend, names())]
        return max(found, key=lambda item: item[0])[1]
    chosen = backend(name)
    if not dry_run and (problem := chosen.problem()):
        raise ClusterError(f"--executor {name}: {problem}")
    return chosen


def liveness(jobs: Sequence[Job]) -> dict[Job, Liveness]:
    """The state of each job; each back end is asked once.

    Jobs of a back end that is not installed here are unknown.
    """
    found: dict[Job, Liveness] = {}
    for name in sorted({job.executor for job in jobs}):
        mine = [job for job in jobs if job.executor == name]
        try:
            answers = backend(name).alive([job.id for job in mine])
        except ConfigError:
            found |= dict.fromkeys(mine, "unknown")
            continue
        found |= {job: answers.get(job.id, "gone") for job in mine}
    return found


def endings(jobs: Sequence[Job]) -> dict[Job, str]:
    """How jobs that are gone ended, in the words of their schedulers; unknown ones are left out."""
    found: dict[Job, str] = {}
    for name in sorted({job.executor for job in jobs}):
        mine = {job.id: job for job in jobs if job.executor == name}
        with suppress(ConfigError):
            found |= {mine[job]: end for job, end in backend(name).ended([*mine]).items()}
    return found
