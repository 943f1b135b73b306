"""Nodes that went down under jobs, as Slurm's accounting tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from hpcscale.cluster.entry import expand_hosts
from hpcscale.cluster.liveness import ask

_JOBS = ("sacct", "-D", "-X", "-n", "-P", "-o", "State,NodeList,Start,End", "-j")
#: Between the end of the job and the report of the node that ended it.
_SLACK = timedelta(minutes=1)
_EVENTS = ("sacctmgr", "-n", "-P", "show", "event", "format=NodeName,Start,State")


def node_failures(jobs: Sequence[str]) -> Counter[str]:
    """How often each node went down under one of ``jobs``; empty without accounting.

    A job that loses a node names all its nodes, so that only those count that were reported down
    while it ran.
    """
    lost = [row for row in _rows(*_JOBS, ",".join(jobs)) if row[0] == "NODE_FAIL"] if jobs else []
    if not lost:
        return Counter()
    first = min(start for _, _, start, _ in lost)
    down = [
        (node, datetime.fromisoformat(at))
        for node, at, state in _rows(*_EVENTS, f"start={first}")
        if node and "DOWN" in state
    ]
    failures: Counter[str] = Counter()
    for _, nodes, start, end in lost:
        under = set(expand_hosts(nodes))
        began, over = datetime.fromisoformat(start), datetime.fromisoformat(end) + _SLACK
        failures.update({node for node, at in down if node in under and began <= at <= over})
    return failures


def job_ends(jobs: Sequence[str]) -> dict[str, str]:
    """The state in which each of ``jobs`` ended, such as TIMEOUT, where it is accounted."""
    if not jobs:
        return {}
    rows = _rows("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(jobs))
    return {job: state.partition(" ")[0] for job, state in rows if job in jobs}


def _rows(*command: str) -> list[list[str]]:
    return [line.split("|") for line in (ask(*command) or "").splitlines()]
