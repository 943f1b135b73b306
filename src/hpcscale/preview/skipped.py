"""Files in the path of a corpus that are not read, as the plan lists them."""

from __future__ import annotations

from hpcscale.opened import Sweep


def skipped_lines(sweep: Sweep) -> list[str]:
    """A line for each role whose `path` holds such files; roles that read the same share one."""
    roles: dict[tuple[object, str], list[str]] = {}
    for role, spec in sweep.config.data.roles().items():
        if text := sweep.sources.listing(spec).skipped_text():
            roles.setdefault((spec.path, text), []).append(f"data.{role}")
    return [f"{', '.join(named)}: {text}" for (_, text), named in roles.items()]
