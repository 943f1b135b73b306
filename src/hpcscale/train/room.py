"""A disk that is full while training state is written, said in words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcscale.errors import CheckpointError
from hpcscale.units import format_bytes


@contextmanager
def need_of_room(folder: Path) -> Iterator[None]:
    """Raises CheckpointError for a write within that fails while ``folder`` has no room.

    torch reports a full disk as a RuntimeError of its own, so that the room is looked at: less
    than what an unfinished checkpoint there takes already is taken for none.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(folder).free
        begun = [p for p in folder.glob("*.partial/**/*") if p.is_file()]
        if free > max(sum(path.stat().st_size for path in begun), 1 << 20):
            raise
        raise CheckpointError(
            f"the training state cannot be saved: No space left on device ({format_bytes(free)} "
            f"free in {folder}); the checkpoints before are whole: make room, then run the same "
            "`hpcscale sweep` again, which goes on from them"
        ) from error
