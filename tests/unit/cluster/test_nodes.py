"""Nodes that go down under jobs."""

from __future__ import annotations

from hpcscale.cluster.nodes import node_failures
from sites import Fake, fake

__all__ = ["fake"]  # a fixture


def test_a_node_counts_that_went_down_under_a_job(fake: Fake) -> None:
    """Two jobs of two nodes each lose the node that they share; a third fails by itself."""
    rows = [
        "NODE_FAIL|n[1-2]|2026-01-01T10:00:00|2026-01-01T11:00:00",
        "COMPLETED|n[1-2]|2026-01-01T12:00:00|2026-01-01T13:00:00",
        "NODE_FAIL|n[2-3]|2026-01-01T14:00:00|2026-01-01T15:00:00",
        "FAILED|n3|2026-01-01T16:00:00|2026-01-01T17:00:00",
    ]
    events = [
        "|2026-01-01T10:30:00|",
        "n2|2026-01-01T11:00:00|DOWN*",
        "n1|2026-01-01T12:30:00|DOWN*",
        "n3|2026-01-01T14:30:00|DRAIN",
        "n2|2026-01-01T15:00:09|DOWN*",
        "n3|2026-01-01T16:30:00|DOWN*",
    ]
    fake("sacct", "printf '%s\\n' " + " ".join(f"'{row}'" for row in rows))
    fake("sacctmgr", "printf '%s\\n' " + " ".join(f"'{row}'" for row in events))
    assert node_failures(["1", "2", "3"]) == {"n2": 2}
    fake("sacct", "exit 1")
    assert node_failures(["1", "2", "3"]) == {}
